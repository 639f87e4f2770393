"""Writes a tiny random-weight Llama and its tokenizer: a real model for real engines, without a hub.

Run it with an engine's Python (torch, transformers, tokenizers): make_tiny_model.py [OUT_DIR]
"""

import json
import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

DEFAULT_OUT = Path(__file__).resolve().parent.parent / ".engines" / "models" / "tiny-llama"
VOCABULARY = 2048
POSITIONS = 4096
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END = range(3)
# Old modules full of prose and code: they exist in every Python and change little between versions.
CORPUS = ("argparse", "ast", "datetime", "decimal", "difflib", "doctest", "inspect", "pydoc", "statistics", "turtle")
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main(out: Path) -> None:
    logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = trained_tokenizer(corpus_files())
    save_tokenizer(tokenizer, out)
    model = random_model()
    model.save_pretrained(out)
    parameters = sum(weights.numel() for weights in model.parameters())
    print(f"tiny model: {parameters / 1e6:.1f} M parameters, {len(tokenizer)} tokens, in {out}")


def corpus_files() -> list[Path]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    return [path for path in (stdlib / f"{name}.py" for name in CORPUS) if path.exists()]


def trained_tokenizer(files: list[Path]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((file.read_text(encoding="utf-8") for file in files), trainer)
    return with_chat(bpe)


def with_chat(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BEGIN],
        eos_token=SPECIAL[END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    tokenizer.save_pretrained(out)
    config = out / "tokenizer_config.json"
    # transformers 5 writes a class name that 4 does not know; this one is known to both.
    known = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(known, indent=2) + "\n")


def random_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    # Tied embeddings would make greedy decoding repeat its last token for ever.
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT)
