"""The words that a guard has to know: which only ask, which mean the same, which turn an answer.

Written for this project. A word that is missing here is content: it counts as a difference.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _classes(text: str) -> dict[str, str]:
    """Each word of a line -> the line's first word."""
    return {word: line.split()[0] for line in text.strip().splitlines() for word in line.split()}


EMPTY: Final = _words(
    """
    a an the this that these those here there it its itself i me my mine myself we us our ours you
    your yours yourself one ones one's oneself someone somebody anyone anybody somehow something
    am is are was were be been being do does did doing done have has had having can could will
    would shall should might may must to of for in on at by with as about into onto within via
    and then so if that's what's it's i'm i've i'd i'll you're you've we're there's isn't
    please tell explain know let say get got gets getting go goes going some any certain such
    ever really actually exactly just also even still currently now today's possible possibly
    kind kinds sort sorts type types thing things way ways method methods
    like quite rather simply basically generally usually please thanks hi hello
    d s t ll m re ve let's
    """
)
"""English words that ask or bind, and change an answer seldom enough."""

ASKS: Final = _classes(
    """
    who whom
    whose
    when
    where
    why
    how
    what which
    """
)

TENSES: Final = {"was": "past", "were": "past", "did": "past", "had": "past", "will": "future"}

MODALS: Final = _classes(
    """
    should shall ought
    must
    may might
    can could
    will would
    """
)
AUXILIARIES: Final = _words("am is are was were do does did has have had") | frozenset(MODALS)

DEGREES: Final = _words(
    "many much long old far often tall big deep high fast heavy wide soon likely hot cold large"
)
"""What stands behind "how" and makes another question of it."""

_SMALL: Final = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
"""
_TENS: Final = "thirty forty fifty sixty seventy eighty ninety"
NUMBERS: Final = {
    **{word: str(value) for value, word in enumerate(_SMALL.split()) if word != "one"},
    **{word: str(10 * value) for value, word in enumerate(_TENS.split(), 3)},
    "hundred": "100", "thousand": "1000", "million": "1e6", "billion": "1e9", "trillion": "1e12",
    "half": "1/2", "quarter": "1/4", "third": "#3", "first": "#1", "1st": "#1", "second": "#2",
    "2nd": "#2", "3rd": "#3", "fourth": "#4", "fifth": "#5", "sixth": "#6", "seventh": "#7",
    "eighth": "#8", "ninth": "#9", "tenth": "#10", "dozen": "12", "once": "x1", "twice": "x2",
    "thrice": "x3", "double": "x2", "triple": "x3", "single": "x1", "decade": "10y",
    "century": "100y", "both": "2",
}  # fmt: skip

DATES: Final = _classes(
    """
    january jan
    february feb
    march
    april apr
    june jun
    july jul
    august aug
    september sept sep
    october oct
    november nov
    december dec
    monday mondays
    tuesday tuesdays
    wednesday wednesdays
    thursday thursdays
    friday fridays
    saturday saturdays
    sunday sundays
    today
    yesterday
    tomorrow
    tonight
    spring
    summer
    autumn
    winter
    morning
    noon
    afternoon
    evening
    night
    midnight
    weekend weekends
    weekday weekdays
    """
)

UNITS: Final = _classes(
    """
    km kilometre kilometer kilometres kilometers kms
    metre meter metres meters
    cm centimetre centimeter centimetres centimeters
    mm millimetre millimeter millimetres millimeters
    mile miles
    foot feet ft
    inch inches
    yard yards
    kg kilogram kilograms kilo kilos kgs
    gram grams
    mg milligram milligrams
    pound pounds lbs lb
    ounce ounces oz
    ton tons tonne tonnes
    litre liter litres liters
    ml millilitre milliliter millilitres milliliters
    gallon gallons
    cup cups
    teaspoon teaspoons tsp
    tablespoon tablespoons tbsp
    second seconds secs
    minute minutes min mins
    hour hours hrs hr hourly
    day days daily
    week weeks weekly
    month months monthly
    year years yearly annual annually
    celsius centigrade
    fahrenheit
    kelvin
    dollar dollars usd $
    euro euros eur €
    yen jpy ¥
    yuan rmb cny
    rupee rupees inr rs ₹
    sterling gbp £
    cent cents
    percent % percentage
    bit bits
    byte bytes
    kb kilobyte kilobytes
    mb megabyte megabytes mib
    gb gigabyte gigabytes gib
    tb terabyte terabytes
    watt watts
    kw kilowatt kilowatts
    kwh
    volt volts
    amp amps
    hz hertz
    mhz
    ghz
    calorie calories kcal
    joule joules
    acre acres
    hectare hectares
    k
    lakh lakhs
    crore crores
    """
)
del UNITS["second"]  # an ordinal more often

NEGATIONS: Final = _words(
    """
    not no never none neither nor without cannot nobody nothing nowhere except excluding unless
    can't won't don't doesn't didn't isn't aren't wasn't weren't haven't hasn't hadn't shouldn't
    couldn't wouldn't mustn't cant wont dont doesnt didnt isnt arent avoid stop refuse fail lack
    besides instead non
    """
)

TURNS: Final = _words(
    """
    before after above below over under up down off out from until till since during against
    between among beside behind through across outside inside towards away upon beyond per
    only most least more less fewer many much few little last latest next previous former current
    every each all other another same different too enough again yet already almost nearly
    he him his she her hers they them their male female
    who's versus vs than or but because
    """
)
"""Words that bind, too, but turn an answer: they count as content."""

SAME: Final = _classes(
    """
    best good great top better
    begin start commence
    buy purchase
    phone mobile cellphone smartphone
    picture photo pic image photograph
    movie film
    mother mom mum
    father dad
    child kid children
    big large
    quick fast rapid speedy
    usa usx usax america
    uk britain
    learn study
    create make build
    reason cause
    job career
    delete remove erase
    recover retrieve
    gain increase
    reduce decrease
    speak talk
    car automobile
    tv television
    ill sick
    difference distinguish differ
    main major
    pro advantage
    con disadvantage
    recommend suggest
    difficult hard
    easy simple
    """
)
"""Stems are looked up, not words."""
for _unlike in ("better", "great", "top", "increase", "decrease", "reduce", "gain"):
    SAME.pop(_unlike, None)

ASKING_ZH: Final = (
    "请问|你好|我想知道|想知道|谁知道|有谁知道|谁能告诉我|告诉我|大家|各位|帮忙|急|在线等|求助|谢谢"
    "|到底|究竟|一下|应该|可以|能够|需要|请"
)
"""What is said around a Chinese question."""
HOW_ZH: Final = (
    "怎么样才能|怎么样|怎么才能|怎样才能|如何才能|怎么办|怎么|怎样|如何|咋样|咋|什么方法|什么办法"
)
WHAT_ZH: Final = (
    "是什么意思|什么意思|是啥意思|啥意思|是什么|什么是|有什么|有哪些|什么|哪些|哪个|哪种|啥"
)
EMPTY_ZH: Final = frozenset("的了吗呢啊呀吧哦嘛么是有会能要得着过就都还也和与跟及对把被让给地之很")
"""Characters that ask or bind."""
NEGATIONS_ZH: Final = frozenset("不没无未非别勿莫否除")
TURNS_ZH: Final = frozenset(
    "前后上下左右内外里大小多少高低长短早晚先再最更男女公母父爸妈兄弟姐妹进出买卖借还胜负输赢增减升降"
    "开关加真假新旧冷热东西南北从到向只仅每全部首末谁他她它你我"
)
UNITS_ZH: Final = frozenset("年月日天周时分秒米里斤克吨升元角度岁寸尺亩")
