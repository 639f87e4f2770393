"""Common English words that are one token (with their leading space) in the usual byte-pair vocabularies.

Synthetic prompts are made of them, and the embedded engine's tokenizer has each as one token. Append only: their order
is part of every trace and of the embedded engine's token ids.
"""

from __future__ import annotations

_TEXT = """
the and for that with this from have are was not you all can had her his one our out day get has him how man new now
old see two way who did its let say she too use any may own off set end put big ask run try few got far yet car law
about above across action active actual add address after again against age agree air allow almost alone along already
also although always among amount animal another answer anyone anything appear apply area argue arm army around arrive
art article artist assume attack attention author available avoid away baby back bad bag ball bank bar base basic
battle be bear beat beautiful because become bed before begin behind believe benefit best better between beyond bill
bird bit black blood blue board boat body book born both bottom box boy break bring brother brown budget build
building burn business busy but buy by call camera camp campaign cancer capital card care career carry case cat catch
cause cell center central century certain chair challenge chance change character charge cheap check child choice
choose church city civil claim class clean clear close club coach coast coffee cold collection college color come
common community company compare computer concern condition conference consider contain continue control cool copy
corner cost could count country couple course court cover create crime culture cup current customer cut dance danger
dark data date daughter dead deal death debate decade decide decision deep defense degree democratic deny describe
design desk despite detail determine develop device die difference different difficult dinner direct direction
director discover discuss disease do doctor dog door double down draw dream dress drink drive drop drug dry due during
each early earn ear earth east easy eat economic economy edge education effect effort eight either election else
employee empty energy enjoy enough enter entire environment equal error especially establish even evening event ever
every everyone everything evidence exactly example executive exist expect experience expert explain eye face fact
factor fail fair faith fall family famous fast father fear federal feel feeling field fight figure fill film final
finally financial find fine finger finish fire firm first fish five floor flow fly focus follow food foot force
foreign forest forget form former forward four free friend front full fun function fund future game garden gas general
generation girl give glass global go goal god gold good government grand grass gray great green ground group grow
growth guess guide gun guy hair half hall hand hang happen happy hard hat hate he head health hear heart heat heavy
help here herself high hill himself history hit hold hole home hope horse hospital hot hotel hour house huge human
hundred husband ice idea identify if image imagine impact important improve in include increase indeed index indicate
individual industry information inside instead institution interest international interview into investment involve
island issue it item itself job join just keep key kid kill kind king kitchen know knowledge lack lady lake land
language large last late later laugh lawyer lay lead leader league learn least leave left leg legal less letter level
library lie life light like likely limit line link list listen little live local long look lose loss lost lot love low
lunch machine magazine main maintain major make manage management manager many map mark market marriage master match
material matter maybe me meal mean measure media medical meet meeting member memory men mention message metal method
middle might mile military milk million mind minister minute miss mission model modern moment money month moon more
morning most mother mountain mouth move movement movie much music must my name nation national natural nature near
nearly necessary neck need network never news newspaper next nice night nine no noise none nor normal north nose note
nothing notice number object occur ocean odd of offer office officer official often oil okay on once only onto open
operation opportunity option or orange order organization original other others outside over owner page pain paint
pair paper parent park part particular particularly partner party pass past path patient pattern pay peace people per
perfect perform performance perhaps period person personal phone physical pick picture piece place plan plane plant
plate play player please plenty plus point police policy political politics poor popular population position positive
possible post power practice prepare present president press pressure pretty prevent previous price print prison
private probably problem process produce product production professional professor program project property protect
prove provide public pull purpose push quality quarter queen question quick quickly quiet quite race radio rain raise
range rate rather reach read ready real reality realize really reason receive recent recently recognize record red
reduce reflect region relate relationship religious remain remember remove repeat reply report represent require
research resource respond response rest result return reveal rich ride right ring rise risk river road rock role roll
roof room rose round row rule safe sail sale salt same sample sand save scale scene school science scientist score
screen sea search season seat second secret section security seek seem sell send senior sense series serious serve
service seven several sex shadow shake shape share sharp ship shirt shoe shoot shop short shot should shoulder show
shut sick side sight sign significant silver similar simple simply since sing single sir sister sit site situation six
size skill skin sky sleep slow small smile smoke smooth snow so social society soft soldier some somebody someone
something sometimes son song soon sort sound source south space speak special specific speech speed spend spirit sport
spot spring square staff stage stand standard star start state statement station stay steel step stick still stock
stone stop store storm story straight strange street strength strong structure student study stuff style subject
success successful such suddenly suffer sugar suggest summer sun supply support sure surface sweet swim system table
tail take talk tall task tax teach teacher team technology television tell ten tend term test text than thank their
them themselves then theory there these they thick thin thing think third those though thought thousand threat three
through throughout throw thus tie time tiny title to today together tomorrow tone tonight tool top total touch toward
tower town trade traditional train training travel treat treatment tree trial trip trouble true trust truth turn type
uncle under understand union unit until up upon us usually valley value various very victim view village violence
visit voice vote wait walk wall want war warm wash watch water wave we weapon wear weather week weight well west wet
what whatever wheel when where whether which while white whole whom whose why wide wife wild will win wind window
winter wish within without woman women wonder wood word work worker world worry would write writer wrong yard yeah
year yellow yes young your yourself youth zero
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
