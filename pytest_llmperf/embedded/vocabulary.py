"""The common words that are one token each. Their order is part of the token ids: append only."""

_TEXT = """
a able about above accept across act action active add address after again against age agree air all allow almost
alone along already also always am among amount an ancient and angle animal another answer any anything apart appear
apple are area arm army around arrive art as ask at attack attempt average away baby back bad bag balance ball band
bank bar base basic basket bath be bear beat beautiful became because become bed been before began begin behind being
believe bell belong below bend beside best better between beyond big bird birth bit black blade blood blow blue board
boat body bone book border born both bottle bottom bowl box boy branch brave bread break breath bridge brief bright
bring broad broke brother brought brown build built burn bus business busy but butter buy by cake call calm came camp
can capital captain car card care careful carry case cat catch caught cause cell cent center central century certain
chain chair chance change chapter character charge chart check chief child children choice choose church circle city
claim class clean clear climb clock close cloth clothe cloud club coast coat coffee cold collect college colony color
column come common company compare complete compose computer condition connect consider contain continue control cook
cool copy corn corner correct cost cotton could council count country couple courage course court cover create crop
cross crowd cry cup current curve custom cut daily damage dance danger dare dark data date daughter day dead deal dear
death decade decide decimal deep deer degree demand depend describe desert design desk determine develop device did
die differ difficult dinner direct direction discuss distance distant divide division do doctor does dog dollar done
door double doubt down draw dream dress drew drink drive drop dry duck during dust duty each eager ear early earn
earth ease east easy eat edge education effect effort egg eight either electric element else empty end enemy energy
engine enjoy enough enter entire equal error escape especially even evening event ever every everyone everything
evidence exact example except excite exercise expect experience experiment explain express eye face fact fair fall
false family famous far farm fast father favor fear feature feed feel feet fell felt fence few field fight figure fill
final find fine finger finish fire firm first fish fit five flat floor flow flower fly follow food foot for force
foreign forest forget form formal forward found four fraction frame free french fresh friend from front fruit full fun
function future game garden gas gather gave general gentle get giant gift girl give glad glass go goal gold gone good
got govern grade grain grand grass gray great green grew ground group grow growth guard guess guest guide gun had hair
half hall hand happen happy harbor hard has hat have he head health hear heard heart heat heavy held help her here
high hill him his history hit hold hole holiday home honest honor hope horse hospital hot hotel hour house how however
huge human hundred hunger hunt hurry hurt husband ice idea if image imagine impact important in inch include income
increase indeed index indicate industry inside insect instant instead interest into invent iron is island issue it
item its job join joint journey joy judge jump just keep kept key kill kind king kitchen knee knew know known labor
lady lake lamp land language large last late later laugh law lay lead leader leaf learn least leather leave led left
leg legal length less lesson let letter level library lie life lift light like limit line link lion liquid list listen
little live local log long look loose lose loss lost lot loud love low luck lunch machine made magnet main major make
man manage many map march mark market marry mass master match material matter may maybe me meal mean meant measure
meat medicine meet melody member memory men mention merchant message met metal method middle might mile milk million
mind mine minor minute mirror miss mistake mix model modern moment money month moon more morning most mother motion
mount mountain mouth move movie much multiply murder muscle music must my myself name narrow nation native natural
nature near nearly neat necessary neck need neighbor neither nerve never new news next nice night nine no noise none
noon nor normal north nose not note nothing notice noun now number object observe obtain occur ocean of off offer
office officer often oh oil old on once one only onto open operate opinion opposite or orange order organ original
other our out outside over own oxygen page paid pain paint pair palace paper paragraph parent park part particular
party pass past path patient pattern pay peace pencil people per perfect perhaps period person phone phrase pick
picture piece pilot pink pipe pitch place plain plan plane planet plant plate play please plenty plural pocket poem
poet point poison police policy poor popular population port pose position possible post pound power practice praise
prepare present president press pretty prevent price print prison private prize probable problem process produce
product profit program promise proof proper property protect proud prove provide public pull pupil pure purpose push
put quarter queen question quick quiet quite quote race radio rail rain raise ran range rapid rate rather ratio reach
read ready real reason receive recent record red reduce region regular relation remain remember remove repeat reply
report represent require research rest result return rich ride right ring rise risk river road rock roll roof room
root rope rose rough round route row royal rubber rule run rush safe said sail salt same sand sat save saw say scale
scene school science score sea search season seat second secret section see seed seek seem seen segment select self
sell send sense sent sentence separate series serious serve service set settle seven several shade shake shall shape
share sharp she sheep sheet shell shine ship shirt shoe shop shore short should shoulder shout show shut sick side
sight sign signal silent silver similar simple since sing single sister sit six size skill skin sky sleep slip slow
small smell smile smoke smooth snow so social soft soil soldier solution solve some son song soon sort sound source
south space speak special speech speed spell spend spoke spot spread spring square stage stair stand star start state
station stay steady steam steel step stick still stone stood stop store storm story straight strange stream street
strength stretch string strong student study subject substance success such sudden suffer sugar suggest suit summer
sun supper supply support sure surface surprise sweet swim syllable symbol system table tail take talk tall task taste
taught teach team tell ten term test than thank that the their them then there these they thick thin thing think third
this those though thought thousand three through throw thus tie time tiny tire title to today together told tomorrow
tone too took tool top total touch toward tower town track trade train transport travel tree triangle trip trouble
truck true trust truth try tube turn twelve twenty two type uncle under unit until up upon us use usual valley value
vary vast verb very view village visit voice vote vowel wait walk wall want war warm was wash watch water wave way we
wear weather week weight welcome well went were west what wheel when where whether which while white who whole whose
why wide wife wild will win wind window wing winter wire wise wish with within without woman women wonder wood word
work world worry worth would write written wrong wrote yard year yellow yes yesterday yet you young your zero
"""

WORDS = tuple(_TEXT.split())
