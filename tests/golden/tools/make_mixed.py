#!/usr/bin/env python3
"""Makes the tokeniser's test texts: mixed.txt, invalid.bin, invalid.repaired.txt.

usage: make_mixed.py DIR

The same bytes every time: own random numbers, and only characters of Unicode
3.2 where ranges are sampled, so that the Python version does not matter.
"""
import os
import sys
from unicodedata import ucd_3_2_0


class Random:
    """xorshift64*"""

    def __init__(self, seed):
        self.x = seed

    def below(self, n):
        self.x ^= self.x >> 12
        self.x = (self.x ^ self.x << 25) & 0xFFFFFFFFFFFFFFFF
        self.x ^= self.x >> 27
        return ((self.x * 0x2545F4914F6CDD1D & 0xFFFFFFFFFFFFFFFF) >> 33) % n

    def between(self, low, high):
        return low + self.below(high - low + 1)

    def pick(self, items):
        return items[self.below(len(items))]


R = Random(20261124)


def words(text):
    return text.split()


NOUN = words("""time year people way day man thing woman life child world school state family student
group country problem hand part place case week company system program question work government
number night point home water room mother area money story fact month lot right study book eye job
word business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education lighthouse cartographer marmalade umbrella thermodynamics
photosynthesis bureaucracy archipelago serendipity counterexample xylophone ptarmigan quokka""")
VERB = words("""be have do say go get make know think take see come want look use find give tell work call
try ask need feel become leave put mean keep let begin seem help show hear play run move like live
believe hold bring happen write provide sit stand lose pay meet include continue set learn lead
understand watch follow stop create speak read allow add spend grow open walk win offer remember
love consider appear buy wait serve die send expect build stay fall cut reach kill remain
re-examine outmanoeuvre disambiguate overfit defragment""")
ADJ = words("""good new first last long great little own other old right big high different small large
next early young important few public bad same able red quiet enormous brittle iridescent
well-worn half-finished anti-inflammatory pseudo-random Victorian Baltic post-war non-negligible""")
NAME = words("""Ada Bartholomew Chloé Dmitri Esi Fionnuala Günther Hiroshi Ingrid José Kwame Lúcia
Małgorzata Nguyễn O'Brien Páll Quentin Renée Søren Tōru Ursula Vàclav Wójcik Xóchitl Yusuf Zoë
D'Angelo McAllister van-der-Berg Łukasz Øystein Çelik""")
SHORT = words("""don't can't won't I'm I've I'll I'd you're you've you'll they'd it's that's let's
who'd he'll she'd we're should've mustn't o'clock rock'n'roll 'twas 'tis y'all ain't DON'T I'M
WE'LL IT'S You'Re tom's boss' 90's ’tis don’t it’s I’m we’ll they’ve she’d 'S 's 't 're 've 'm 'll 'd""")
JOIN = words("and but or because although while so if when until unless whereas")
PREFIX = words("""a ab ad anti auto be bi circum co com con contra counter de dia dis e electro en epi ex extra
fore geo hemi hetero hydro hyper hypo il im in inter intra iso macro mal mega meta micro mid mis mono multi neo non
ob omni ortho out over paleo pan para per peri photo poly post pre pro proto pseudo psycho quasi re retro semi sub
super syn tele thermo trans tri ultra un under uni up""")
ROOT = words("""act anim ann anthrop aqu arch aud bell bio bound brev burn calc cap car cede ceive chron cide clam class
claim clos cogn cord corp cosm crat cred cruc crypt cur cycl dat dem derm dict doc dom don duc dyn dur ego equ fac fer
fid fin flect flex flor flu form fort fract fug fund gen glac glob gon gram graph grat greg hab heli host hum hydr
iatr ject journ jud junct kin labor lat leg lev liber lin lith loc log loqu luc lud lun magn man mand mar mater mem
merg meter migr min miss mit mob mort morph mut nat nav neg nerv neur noc nom nov numer nut oper opt or pac path ped
pel pend phil phon phys plac plan plic pol pon pop port pos press prim psych puls quer quest quir radi rect rog rupt
san scend sci scop scrib sect sens sent sequ serv sist sol solv son soph spec spher spir sta strain strict struct
sum tact techn temp ten tend tent terr test text therm tor tort tract trib trud turb urb vac vad val ven vent verb
vers vict vid vinc vir vit viv voc vol volv vor wick win worth yield zeal zo""")
SUFFIX = words("""able acy age al ance ancy ant ar ary ate ated ates ating ation ations ative ator ed en ence ency ent
er ers ery es esque est ful fully hood ia ian ible ic ical ically ify ing ingly ion ionist ions ious iously ise ised
ish ism ist istic ists ity ive ively ization ize ized izing less lessly let ling logy ly ment mental ments ness
nesses o or ory ous ously s ship some ster th tion tude ture ty ual um ure us ward wards ware wise y yl""")
RUSSIAN = words("""время человек дело жизнь день рука раз год слово место вопрос лицо друг дом сторона
страна мир случай голова ребёнок сила конец вид система часть город отношение женщина деньги
который быть сказать мочь говорить знать стать есть хотеть видеть идти стоять думать подъезд
объявление Ёлка ЩУКА съёмка чрезвычайный превысокомногорассмотрительствующий""")
UKRAINIAN = words("їжак ґанок є'єднання здоров'я Київ більше тільки щодня прізвище об'єкт")
GREEK = words("λόγος ἀρχή θάλασσα ποταμός ΑΘΗΝΑ ἄνθρωπος σοφία ευχαριστώ καλημέρα ὁδός Ὀδυσσεύς")
ARABIC = words("""كتاب مدرسة بيت ماء سماء شمس قمر طريق مدينة وقت يوم سنة عمل حياة قلب يد عين وجه
مُحَمَّد الْكِتَابُ السَّلَامُ عليكم إلى من في على هذا ذلك التي الذين لأنّ پنجره گفتن چرا""")
HEBREW = words("שלום ספר בית מים שמש דרך עיר זמן יום שָׁלוֹם בְּרֵאשִׁית ירושלים")
HINDI = words("नमस्ते किताब पानी समय दिन घर रास्ता विद्यार्थी प्रेम शक्ति संस्कृत क्षेत्र ज्ञान")
THAI = words("สวัสดี หนังสือ น้ำ เวลา บ้าน ถนน ภาษาไทย กรุงเทพมหานคร ผู้ใหญ่")
CHINESE = words("""我们 今天 明天 时间 问题 世界 学校 老师 朋友 工作 生活 城市 因为 所以 但是 如果 已经 可以
没有 什么 喜欢 知道 東京 學習 國家 電腦 龍 麒麟 圖書館 阅读 长文档 的 了 是 在 不 人 有 这 他""")
JAPANESE = words("""私は 図書館で 本を 読みます。 ありがとう コンピュータ プログラム 今日は 天気が いいですね。
東京タワー カタカナ ひらがな っっっ ー ヴァイオリン パーティー 々 〆切 食べた 行きましょう""")
KOREAN = words("안녕하세요 감사합니다 학교 시간 사람 도서관에서 책을 읽습니다 컴퓨터 뷁 쀍 한국어 ㅋㅋㅋ ㅠㅠ")
VIETNAMESE = words("người nước tiếng Việt đường được không một những của Nguyễn Huệ phở ngữ nghĩa")
EUROPEAN = words("""über Straße GRÖSSE naïve façade coöperate œuvre smörgåsbord Łódź žluťoučký kůň příliš
kişi İstanbul ışık ñandú ¿qué? ¡olé! ça l'été aujourd'hui jusqu'à d'accord þorn Æsir ð ß ẞ ﬁne ﬂow ǅ""")
EMOJI = """😀 😂 ❤ ❤️ 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🏴‍☠️ 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇫🇷 🇯🇵🇧🇷 1️⃣ #️⃣ *️⃣ 🤷🏻‍♀️ 🧑🏿‍🚀 ☕ ☕️ ♻ ♻︎ 🫠 🥹 🐈‍⬛ ✨ 🔥🔥🔥 ©️ ™ 👁️‍🗨️ 🫱🏼‍🫲🏿""".split()
SPACE = ["\t", "\t\t", " ", "  ", "   ", "    ", " " * 7, " " * 16, " " * 33, "\n", "\n\n", "\n\n\n", "\r\n",
         "\r\n\r\n", "\r", " \n", "\n ", "\n  ", "\t\n", "\n\t\t", " \t ", "\u00a0", "\u00a0\u00a0", " \u00a0",
         "\u00a0 ", "\u2003", "\u2009", "\u202f", "\u3000", "\u3000\u3000", "\u2028", "\u2029", "\u0085",
         "\u1680", "\u205f", "\v", "\f", " \f\n", "\u200b", "\ufeff", "\u180e", "\u2060", "\n \n \n", "\t \t\n\n  "]
PUNCT = words("""... .... ...... !! !!! ?! ??? -- --- ---- ————— -> => <- <= >= == === != !== && || :: ;; ,,
{} {}) })) ()) (( ]] [[ </ /> /* */ // /// ### ## #! $$ %% ^^ ~~ ``` '' ''' \"\" “” „“ «» ‹› 「」 『』 【】
、。 ！？ … ‥ · • ● ■ □ ▲ ▼ ◆ ★ ☆ → ← ↔ ⇒ ∀ ∃ ∅ ∈ ∉ ∑ ∏ √ ∞ ∫ ≈ ≠ ≤ ≥ ± × ÷ ° § ¶ † ‡ € £ ¥ ₿ ¢
@@ __ ___ \\\\ \\n \\t \\\\\\ ;-) :-( ^_^ ¯\\_(ツ)_/¯ (╯°□°）╯︵┻━┻ ****** ====== ------ ~~~~~~ ______ +++++ <<<<<<< >>>>>>>""")
DIGIT = ["٠١٢٣٤٥٦٧٨٩", "۰۱۲۳", "०१२३", "๐๑๒", "０１２３", "²³¹", "½¼¾", "Ⅷ", "ⅻ", "①②③", "㊿", "𝟘𝟙", "一二三", "〇",
         "௧௨", "⅒", "₁₂", "⑴", "Ⅳ.", "x²", "10⁻³", "H₂O"]
SPECIAL = """<|im_start|> <|im_end|> <|endoftext|> <repo_name> <reponame> <file_sep> <filename> <gh_stars>
<jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>
<issue_start> <issue_comment> <issue_closed> <|im_start|>assistant <s> </s> [INST] <|user|> <|im_start |>""".split()
CONTROL = [chr(c) for c in range(1, 32) if c not in (9, 10, 13)] + ["\x7f", "\x80", "\x9f", "\u00ad", "\u200d", "\u200e",
                                                                     "\u202b", "\u2066", "\ufffd", "\ufffc"]

RANGES = """20-7e a0-ff 100-17f 180-24f 250-2af 300-36f 370-3ff 400-4ff 530-58f 590-5ff 600-6ff 700-74f
900-97f 980-9ff a00-a7f a80-aff b80-bff c00-c7f d00-d7f d80-dff e00-e7f e80-eff f00-fff 1000-109f 10a0-10ff
1100-11ff 1200-137f 13a0-13ff 1400-167f 1680-16ff 1780-17ff 1800-18af 1e00-1eff 1f00-1fff 2000-206f 2070-209f
20a0-20cf 20d0-20ff 2100-214f 2150-218f 2190-21ff 2200-22ff 2300-23ff 2460-24ff 2500-257f 2580-25ff 2600-26ff
2700-27bf 2800-28ff 2e80-2eff 3000-303f 3040-309f 30a0-30ff 3100-312f 3130-318f 3200-32ff 3300-33ff 3400-4db5
4e00-9fa5 a000-a48c ac00-d7a3 e000-f8ff f900-faff fb00-fb4f fb50-fdff fe20-fe2f fe30-fe4f fe70-fefc ff00-ffef
10300-1034f 10400-1044d 1d000-1d0ff 1d100-1d1dd 1d400-1d7ff 20000-2a6d6 2f800-2fa1d e0020-e007f 100000-100fff""".split()


def capital(s):
    return s[:1].upper() + s[1:]


def coined():
    """looks like a word, and now and then is one"""
    w = (R.pick(PREFIX) if R.below(2) else "") + R.pick(ROOT) + R.pick(["", "", "o", "i"]) + R.pick(SUFFIX)
    if R.below(4) == 0:
        w += R.pick(SUFFIX)
    return R.pick([w, w, w, w, capital(w), w.upper(), w + "'s"])


def clause():
    return R.pick([
        lambda: f"the {R.pick(ADJ)} {R.pick(NOUN)} {R.pick(VERB)}s the {R.pick(NOUN)}",
        lambda: f"{R.pick(NAME)} {R.pick(SHORT)} {R.pick(VERB)} {R.pick(ADJ)} {R.pick(NOUN)}s",
        lambda: f"{R.pick(NOUN)}s {R.pick(VERB)} {R.between(0, 10 ** R.between(1, 9))} {R.pick(NOUN)}s",
        lambda: f"{R.pick(VERB)}ing {R.pick(NAME)}'s {R.pick(NOUN)} {R.pick(SHORT)} {R.pick(ADJ)}",
        lambda: " ".join(coined() for _ in range(R.between(2, 6))),
        lambda: f"{R.pick(NOUN)} of {coined()} {R.pick(NOUN)}s {R.pick(VERB)} {coined()}",
        lambda: f"un{R.pick(VERB)}able {R.pick(NOUN)}-{R.pick(NOUN)}ness, {R.pick(NOUN).upper()} ({R.pick(VERB)}ed)",
    ])()


def prose():
    out = []
    for _ in range(R.between(3, 9)):
        s = capital(clause())
        for _ in range(R.below(3)):
            s += R.pick([", ", "; ", " — ", " - ", ": "]) + R.pick(JOIN) + " " + clause()
        if R.below(4) == 0:
            s = R.pick(['"%s,"', "“%s”", "'%s'", "(%s)", "*%s*", "_%s_", "‘%s’"]) % s
        out.append(s + R.pick([".", ".", ".", "!", "?", "...", "?!", "…"]))
    return R.pick([" ", " ", "  ", "\n"]).join(out)


def ident():
    parts = [R.pick(NOUN + VERB + ROOT + SUFFIX).replace("-", "") for _ in range(R.between(1, 3))]
    return R.pick([lambda: "_".join(parts), lambda: parts[0] + "".join(map(capital, parts[1:])),
                   lambda: "".join(map(capital, parts)), lambda: "_".join(parts).upper(),
                   lambda: parts[0][0] + str(R.below(10))])()


def number():
    return R.pick([
        lambda: str(R.below(10 ** R.between(1, 9))),
        lambda: "".join(str(R.below(10)) for _ in range(R.between(10, 40))),
        lambda: f"{R.below(1000)}.{R.below(10 ** R.between(1, 6))}e{R.pick('+-')}{R.below(40)}",
        lambda: f"0x{R.below(1 << 31):0{R.between(2, 12)}X}",
        lambda: f"{R.below(999)},{R.below(1000):03},{R.below(1000):03}.{R.below(100):02}",
        lambda: f"{R.between(1900, 2099)}-{R.between(1, 12):02}-{R.between(1, 28):02}T{R.below(24):02}:{R.below(60):02}Z",
        lambda: f"{R.below(256)}.{R.below(256)}.{R.below(256)}.{R.below(256)}:{R.below(65536)}",
        lambda: f"v{R.below(10)}.{R.below(30)}.{R.below(100)}-rc{R.below(9)}",
        lambda: f"+{R.between(1, 99)} ({R.below(1000):03}) {R.below(1000):03}-{R.below(10000):04}",
        lambda: f"${R.below(100000)}.{R.below(100):02}", lambda: f"{R.below(101)}%", lambda: f"{R.below(1 << 31):032b}",
        lambda: R.pick(DIGIT), lambda: f"{R.below(100)}{R.pick(NOUN)}{R.below(100)}", lambda: f"{R.below(30)}'s",
    ])()


def code_c():
    f, a, b = ident(), ident(), ident()
    return f"""#include <{R.pick(NOUN)}.h>
#define {a.upper()} (1u << {R.below(32)})
/* {clause()} */
static int {f}(const char *{a}, size_t n)
{{
\tfor (size_t i = 0; i < n; ++i) {{
\t\tif ({a}[i] == '{R.pick("abcxyz")}' || {a}[i] == '\\0')
\t\t\treturn -{R.below(99)};\t// {R.pick(SHORT)} {R.pick(VERB)}
\t}}
\tprintf("%s: %08x\\n", {b}, {number()});
\treturn {a}->{b} ? *{a}++ : !{b} && ~0ul;
}}
"""


def code_python():
    f, a, b = ident(), ident(), ident()
    return f'''def {f}({a}: list[int], *, {b}=None) -> dict:
    """{capital(clause())}."""
    if {a} is None or len({a}) != {R.below(1000)}:
        raise ValueError(f"{{{a}!r}} isn't {R.pick(ADJ)}")
    return {{k: v ** 2 for k, v in enumerate({a}) if v % {R.between(2, 9)} == 0}}  # {R.pick(NOUN)}


@{R.pick(NOUN)}.{R.pick(VERB)}
class {capital(f)}({capital(b)}):
    {a} = [{number()!r}, {R.below(99)}, None, True]
    def __init__(self, **kwargs): super().__init__(**kwargs)
'''


def code_rust():
    f, a = ident(), ident()
    return f"""pub fn {f}<'a, T: Ord + ?Sized>(x: &'a mut [T], {a}: Option<u{R.pick(["8", "32", "64", "size"])}>) -> Result<(), Box<dyn Error>> {{
        let y = x.iter().filter(|v| v.{R.pick(VERB)}() >= {a}.unwrap_or(0)).collect::<Vec<_>>();
        match y {{ _ if y.len() > {R.below(500)} => Ok(()), _ => Err("{clause()}".into()) }}
}}
"""


def code_js():
    f, a = ident(), ident()
    return f"""export const {f} = async ({{ {a} = '{R.pick(NOUN)}', ...rest }}) => {{
  const res = await fetch(`https://{R.pick(NOUN)}.example/{R.pick(VERB)}?q=${{{a}}}&n={R.below(999)}`);
  if (!res.ok) throw new Error(`HTTP ${{res.status}}`);
  return (await res.json())?.{a} ?? rest[{R.below(9)}]; // TODO: {clause()}
}};
"""


def code_sql():
    return f"""SELECT t1.{R.pick(NOUN)}, COUNT(*) AS n FROM {R.pick(NOUN)}s t1 LEFT JOIN {R.pick(NOUN)}_{R.pick(NOUN)} USING (id)
 WHERE t1.{R.pick(NOUN)} LIKE '%{R.pick(NOUN)}%' AND n >= {R.below(5000)} GROUP BY 1 HAVING n <> 0 ORDER BY 2 DESC;
"""


def code_html():
    return f"""<div class="{R.pick(NOUN)} {R.pick(ADJ)}" id='{ident()}' style="width:{R.below(100)}%;color:#{R.below(1 << 24):06x}">
  <a href="/{R.pick(NOUN)}/{R.below(99)}.html#{R.pick(NOUN)}">{clause()}&nbsp;&amp;&#{R.between(160, 9999)};</a><br/>
</div><!-- {R.pick(NOUN)} -->
"""


def code_misc():
    return R.pick([
        lambda: f'{{"{ident()}": [{number()!r}, {R.below(99)}, null, {{"{R.pick(NOUN)}": "\\u{R.below(65536):04x}"}}], "ok": true}}\n',
        lambda: f"$ {R.pick(VERB)} -{R.pick('abcxz')} --{R.pick(NOUN)}={R.below(99)} ./{R.pick(NOUN)}/*.txt | sort -k2,2n >>out.log 2>&1\n",
        lambda: f"| {R.pick(NOUN)} | {R.pick(NOUN)} |\n|:---|---:|\n| {number()} | **{R.pick(ADJ)}** |\n| `{ident()}` | [x](http://e.example) |\n",
        lambda: f"\\begin{{{R.pick(NOUN)}}}\n  $\\frac{{{R.below(99)}}}{{n^{{{R.below(9)}}}}} \\leq \\sum_{{i=0}}^\\infty x_i$ \\\\ \n\\end{{{R.pick(NOUN)}}}\n",
        lambda: f"# {capital(clause())}\n\n* {R.pick(NOUN)}\n  - {clause()}\n    1. {R.pick(ADJ)}\n> {clause()}\n```\n{ident()}\n```\n",
        lambda: f"main :: IO ()\nmain = mapM_ (\\x -> putStrLn $ show x ++ \"{R.pick(NOUN)}\") . filter ((>{R.below(99)}) . fst) =<< {ident()}\n",
        lambda: f"\tmov\trax, [rbp-0x{R.below(256):x}]\n.L{R.below(99)}:\n\tjne\t.L{R.below(99)}\t; {R.pick(NOUN)}\n",
        lambda: f"@@ -{R.below(999)},{R.below(9)} +{R.below(999)},{R.below(9)} @@\n-{clause()}\n+{clause()}\n",
        lambda: f"target_{R.pick(NOUN)}: $(OBJS) %.o\n\t@$(CC) -o $@ $^ -l{R.pick(NOUN)} || exit {R.below(9)}\n",
    ])()


def language():
    kind, gap = R.pick([(RUSSIAN, " "), (RUSSIAN, " "), (UKRAINIAN, " "), (GREEK, " "), (ARABIC, " "), (HEBREW, " "),
                        (HINDI, " "), (THAI, ""), (CHINESE, ""), (CHINESE, ""), (JAPANESE, ""), (KOREAN, " "),
                        (VIETNAMESE, " "), (EUROPEAN, " ")])
    stop = "。" if kind in (CHINESE, JAPANESE) else "।" if kind is HINDI else "."
    out = []
    for _ in range(R.between(1, 3)):
        s = gap.join(R.pick(kind) for _ in range(R.between(3, 14)))
        out.append((capital(s) if R.below(2) else s) + R.pick([stop, stop, "!", "?", "，" if gap == "" else ",", ""]))
    return R.pick([" ", "", "\n"]).join(out)


def assigned(first, last):
    while True:
        c = R.between(first, last)
        if ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs"):
            return chr(c)


def sampled():
    first, last = (int(x, 16) for x in R.pick(RANGES).split("-"))
    return "".join(assigned(first, last) + ("" if R.below(6) else " ") for _ in range(R.between(3, 16)))


def jumble():
    """anything next to anything, no separators but those drawn"""
    out = []
    for _ in range(R.between(8, 30)):
        out.append(R.pick([
            lambda: R.pick(SPACE), lambda: R.pick(SPACE), lambda: R.pick(SPACE), lambda: R.pick(PUNCT), lambda: R.pick(PUNCT),
            lambda: R.pick(SHORT), lambda: coined(), lambda: capital(R.pick(VERB)), lambda: number(), lambda: R.pick(EMOJI),
            lambda: R.pick(RUSSIAN), lambda: R.pick(CHINESE), lambda: R.pick(ARABIC), lambda: R.pick(EUROPEAN),
            lambda: R.pick(SPECIAL), lambda: R.pick(CONTROL), lambda: ident(), lambda: assigned(0x300, 0x36F),
        ])())
    return "".join(out)


def noise():
    return R.pick([
        lambda: R.pick("aeioxzAZ-=.!_ \n\t#*0") * R.between(2, 150),
        lambda: "".join(chr(R.between(33, 126)) for _ in range(R.between(10, 80))),
        lambda: "".join(R.pick("abcdefghijklmnopqrstuvwxyz") for _ in range(R.between(3, 60))),
        lambda: "".join(R.pick("ACGT") for _ in range(R.between(20, 90))),
        lambda: " ".join(R.pick(EMOJI) for _ in range(R.between(1, 6))),
        lambda: "".join(R.pick(EMOJI) for _ in range(R.between(2, 8))),
        lambda: " ".join(number() for _ in range(R.between(2, 9))),
        lambda: "".join(R.pick(PUNCT) + R.pick(["", " "]) for _ in range(R.between(3, 12))),
        lambda: "".join(R.pick(SPACE) for _ in range(R.between(2, 8))) + R.pick(NOUN),
        lambda: " ".join(R.pick(SHORT) for _ in range(R.between(3, 9))),
        lambda: "".join(R.pick(SPECIAL) + R.pick(["", " ", "\n"]) for _ in range(R.between(1, 4))),
    ])()


def mixed(size):
    kinds = [prose] * 6 + [code_c, code_python, code_rust, code_js, code_sql, code_html] + [code_misc] * 3 + \
            [language] * 12 + [sampled] * 14 + [jumble] * 6 + [noise] * 8
    out, n = [], 0
    while n < size:
        s = R.pick(kinds)() + R.pick(["\n", "\n", "\n\n", " ", "\r\n", "\n\n\n", ""])
        out.append(s)
        n += len(s.encode())
    return "".join(out).encode()


BAD = [bytes.fromhex(h) for h in """80 bf 8080 c080 c1bf e08080 e09fbf f0808080 f08fbfbf eda080 edbfbf eda080edb080
f4908080 f5808080 f888808080 fc8480808080 fe ff feff c3 e2 e282 f0 f09f f09f98 e28220 c328 f09f9841 c3a9a9 e2c3a9
e282e282ac f09ff09f9880 ed9fbf80 eda0 f48fbfbfbf f490 e0 e09f f08f efbf efbb c2 dfc0 80808080808080""".split()]


def invalid(size):
    """every bad sequence alone, in words, at line ends, and in runs"""
    out, n = [], 0
    i = 0
    while n < size:
        bad = BAD[i % len(BAD)] if i < 2 * len(BAD) else b"".join(R.pick(BAD) for _ in range(R.between(1, 4)))
        i += 1
        good = [R.pick(NOUN), R.pick(RUSSIAN), R.pick(CHINESE), R.pick(EMOJI), R.pick(SHORT), number(), R.pick(PUNCT)]
        s = (R.pick(good) + R.pick(["", "", " ", "\n"])).encode() + bad + (R.pick(["", "", " ", "\n", "\r\n"]) + R.pick(good)).encode()
        out.append(s + R.pick([b" ", b"\n", b""]))
        n += len(out[-1])
    return b"".join(out) + b"\xe2\x82"  # cut short by the end of the file


def main(folder):
    def save(name, data):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)

    save("mixed.txt", mixed(280000))
    bad = invalid(6000)
    save("invalid.bin", bad)
    # Python replaces each maximal invalid subpart by one U+FFFD, as Unicode recommends
    save("invalid.repaired.txt", bad.decode("utf-8", "replace").encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
