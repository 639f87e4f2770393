"""The scheduler against a simulated KV memory: whatever is scheduled, each request sees its own tokens only."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.embedded.engine.scheduler import Output, Request, Scheduler, StepPlan
from pytest_llmperf.embedded.settings import EngineSettings

EOS = 3
LONGEST = 24


def next_token(tokens: tuple[int, ...]) -> int:
    """A model: its answer depends on every token before."""
    return hash(tokens) % 4


def expected_output(request: Request) -> list[int]:
    tokens = list(request.prompt)
    while len(tokens) - len(request.prompt) < request.max_tokens:
        tokens.append(next_token(tuple(tokens)))
        generated = len(tokens) - len(request.prompt)
        if tokens[-1] == EOS and not request.ignore_eos and generated > request.min_tokens:
            break
    return tokens[len(request.prompt) :]


@dataclass
class Simulation:
    settings: EngineSettings
    memory: dict[int, tuple[int, ...]] = field(default_factory=dict)  # slot -> the tokens up to and including its own
    known: dict[int, list[int]] = field(default_factory=dict)
    outputs: dict[int, list[int]] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    plans: list[StepPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.settings, EOS)

    def add(self, request: Request) -> None:
        self.known[request.id] = list(request.prompt)
        self.outputs[request.id] = []
        self.scheduler.add(request)

    def step(self) -> None:
        plan = self.scheduler.schedule()
        self.plans.append(plan)
        self.check_limits(plan)
        self.write(plan)
        sampled = {work.request.id: self.read(work.request.id, work) for work in plan.work}
        for output in self.scheduler.commit(plan, sampled):
            self.take(output)

    def run(self) -> None:
        for _ in range(2000):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("requests never finish")

    def check_limits(self, plan: StepPlan) -> None:
        assert plan.work, "a step with work to do computes something"
        assert plan.num_tokens <= self.settings.max_num_batched_tokens
        assert self.scheduler.stats().running <= self.settings.max_num_seqs
        ids = [work.request.id for work in plan.work]
        assert len(ids) == len(set(ids))
        assert not set(plan.preempted) & set(ids)
        self.admitted += [item for item in ids if item not in self.admitted]
        held = {block for work in plan.work for block in work.blocks}
        assert len(held) <= round(self.scheduler.stats().kv_usage * self.settings.kv_blocks)

    def slot(self, blocks: tuple[int, ...], position: int) -> int:
        size = self.settings.block_size
        return blocks[position // size] * size + position % size

    def write(self, plan: StepPlan) -> None:
        written: set[int] = set()
        for work in plan.work:
            known = self.known[work.request.id]
            end = work.start + len(work.tokens)
            assert list(work.tokens) == known[work.start : end]
            assert work.samples == (end == len(known))
            for position in range(work.start, end):
                slot = self.slot(work.blocks, position)
                assert slot not in written
                written.add(slot)
                self.memory[slot] = tuple(known[: position + 1])

    def read(self, request_id: int, work) -> int:
        known = self.known[request_id]
        for position in range(work.start + len(work.tokens)):
            assert self.memory[self.slot(work.blocks, position)] == tuple(known[: position + 1])
        return next_token(tuple(known))

    def take(self, output: Output) -> None:
        self.known[output.request_id].append(output.token)
        self.outputs[output.request_id].append(output.token)
        if output.finish_reason:
            self.finished.append(output.request_id)


@st.composite
def settings_strategy(draw: st.DrawFn) -> EngineSettings:
    block = draw(st.integers(1, 6))
    seqs = draw(st.integers(1, 4))
    chunked = draw(st.booleans())
    return EngineSettings(
        max_num_seqs=seqs,
        block_size=block,
        max_model_len=LONGEST,
        max_num_batched_tokens=draw(st.integers(seqs if chunked else LONGEST, 40)),
        num_kv_blocks=-(-LONGEST // block) + draw(st.integers(0, 6)),
        enable_chunked_prefill=chunked,
        enable_prefix_caching=draw(st.booleans()),
    )


@st.composite
def requests_strategy(draw: st.DrawFn) -> list[Request]:
    requests = []
    for number in range(draw(st.integers(1, 7))):
        prompt = tuple(draw(st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST - 1)))
        room = LONGEST - len(prompt)
        max_tokens = draw(st.integers(1, room))
        minimum, ignore = draw(st.integers(0, max_tokens)), draw(st.booleans())
        requests.append(Request(number, prompt, max_tokens, min_tokens=minimum, ignore_eos=ignore))
    return requests


@given(settings_strategy(), requests_strategy(), st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_every_request_gets_the_tokens_it_would_get_alone(settings, requests, gaps):
    simulation = Simulation(settings)
    for request, gap in zip(requests, gaps, strict=False):
        simulation.add(request)
        for _ in range(gap):
            if simulation.scheduler.has_work:
                simulation.step()
    simulation.run()
    assert simulation.outputs == {request.id: expected_output(request) for request in requests}
    assert sorted(simulation.finished) == [request.id for request in requests]
    assert simulation.admitted == [request.id for request in requests], "first come, first served"
    assert simulation.scheduler.stats().kv_usage == 0


@given(settings_strategy(), requests_strategy(), st.data())
def test_aborted_requests_leave_nothing_behind(settings, requests, data):
    simulation = Simulation(settings)
    for request in requests:
        simulation.add(request)
    victims = data.draw(st.sets(st.sampled_from([request.id for request in requests])))
    for victim in victims:
        if simulation.scheduler.has_work:
            simulation.step()
        simulation.scheduler.abort(victim)
    simulation.run()
    for request in requests:
        if request.id not in victims:
            assert simulation.outputs[request.id] == expected_output(request)
    stats = simulation.scheduler.stats()
    assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0)


def test_decodes_come_before_the_next_chunk_of_a_prompt():
    simulation = Simulation(EngineSettings(max_num_batched_tokens=16, max_num_seqs=4, max_model_len=64))
    simulation.add(Request(0, (0,) * 4, 8, ignore_eos=True))
    simulation.step()
    simulation.add(Request(1, (1,) * 40, 4, ignore_eos=True))
    simulation.step()
    decode, chunk = simulation.plans[-1].work
    assert (decode.request.id, decode.prefill, len(decode.tokens)) == (0, False, 1)
    assert (chunk.request.id, chunk.prefill, len(chunk.tokens), chunk.samples) == (1, True, 15, False)


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_whole():
    settings = EngineSettings(
        enable_chunked_prefill=False, max_num_batched_tokens=16, max_num_seqs=4, max_model_len=16, block_size=4
    )
    simulation = Simulation(settings)
    simulation.add(Request(0, (0,) * 10, 2, ignore_eos=True))
    simulation.add(Request(1, (1,) * 10, 2, ignore_eos=True))
    simulation.step()
    simulation.step()
    assert [len(work.tokens) for work in simulation.plans[0].work] == [10]
    assert [len(work.tokens) for work in simulation.plans[1].work] == [1, 10]


def test_a_request_without_a_block_preempts_the_latest():
    settings = EngineSettings(
        max_model_len=8, block_size=1, num_kv_blocks=8, max_num_seqs=2, enable_prefix_caching=False
    )
    simulation = Simulation(settings)
    simulation.add(Request(0, (0, 0, 0), 5, ignore_eos=True))
    simulation.add(Request(1, (1, 1, 1), 5, ignore_eos=True))
    simulation.run()
    assert next(plan.preempted for plan in simulation.plans if plan.preempted) == (1,)
    assert simulation.scheduler.stats().preemptions >= 1
    assert simulation.finished == [0, 1]


def test_a_repeated_prompt_computes_only_what_is_not_in_a_full_block():
    simulation = Simulation(EngineSettings(block_size=4, max_model_len=64))
    prompt = tuple(range(10))
    for number in range(2):
        simulation.add(Request(number, prompt, 1))
        simulation.run()
    assert [len(plan.work[0].tokens) for plan in simulation.plans] == [10, 2]
    stats = simulation.scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (20, 8)


def test_a_fully_cached_prompt_still_computes_its_last_block():
    simulation = Simulation(EngineSettings(block_size=4, max_model_len=64))
    for number in range(2):
        simulation.add(Request(number, tuple(range(8)), 1))
        simulation.run()
    assert [len(plan.work[0].tokens) for plan in simulation.plans] == [8, 4]


def test_requests_of_one_step_share_their_prefix():
    simulation = Simulation(EngineSettings(block_size=4, max_model_len=64))
    for number in range(2):
        simulation.add(Request(number, tuple(range(10)), 1))
    simulation.step()
    first, second = simulation.plans[0].work
    assert second.blocks[:2] == first.blocks[:2]
    assert len(second.tokens) == 2


def test_the_least_recently_used_prefix_is_forgotten_first():
    settings = EngineSettings(block_size=4, max_model_len=8, num_kv_blocks=4, max_num_seqs=1, max_num_batched_tokens=8)
    simulation = Simulation(settings)
    prompts = {name: tuple([name] * 5) for name in range(4)}
    for number, name in enumerate((0, 1, 0, 2, 0, 1)):
        simulation.add(Request(number, prompts[name], 1))
        simulation.run()
    computed = [plan.num_tokens for plan in simulation.plans]
    assert computed == [5, 5, 1, 5, 1, 5]


def test_a_reset_cache_finds_nothing_and_running_requests_go_on():
    simulation = Simulation(EngineSettings(block_size=4, max_model_len=64))
    simulation.add(Request(0, tuple(range(10)), 3, ignore_eos=True))
    simulation.step()
    simulation.scheduler.reset_prefix_cache()
    simulation.add(Request(1, tuple(range(10)), 1))
    simulation.run()
    assert [len(work.tokens) for plan in simulation.plans for work in plan.work] == [10, 1, 10, 1]
    assert simulation.finished == [1, 0]
