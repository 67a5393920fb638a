"""Verdicts of `lehr data grade --task math` against those of math-verify (PyPI `math-verify`), on generated answers.

    python scripts/oracle/math_answers.py --lehr target/release/lehr --count 4000

An answer is a value, written in one of the ways below, and a response that writes the same value or another in the same or another way,
in a box or in a sentence. Printed are, for each way of writing, how often both agree, how often only lehr says right, how often only
math-verify does; ways that are known to differ (module docs of crates/core/src/data/tasks/math/verdict.rs) are marked. Exit code 1 if others differ.
With --golden FILE, a sample of the rows on which both agree is written, with the verdict.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

from math_verify import parse, verify

logging.disable(logging.CRITICAL)

# Time-out of math-verify for one answer. Its own 5 s pass on a busy machine, and it then reports a wrong answer.
SECONDS = 120

# Ways of writing that are read by one of the two only, by the side that reads them.
KNOWN = {
    "mixed with a slash": "both",  # math-verify multiplies
    "Indian": "lehr",
    "spaced thousands": "lehr",
    "vulgar": "lehr",
    "full width": "lehr",
    "superscript": "both",  # math-verify reads 2² as 2
    "en dash": "lehr",
    "exponent": "lehr",
    "scientific": "lehr",  # math-verify rounds 10.175 times 100
    "percent": "lehr",  # and 5861.2 / 100
    "repeating": "lehr",
    "point at the end": "lehr",
    "text in fraction": "lehr",
    "root without braces": "lehr",
    "fbox": "both",  # math-verify takes a part of the text
    "answer tag": "lehr",
    "boxes": "lehr",
    "hashes, then a number": "lehr",
    "unfinished reasoning": "math-verify",
    "hedge": "math-verify",
    "sum": "math-verify",
    "product in a sentence": "both",
    "decimals": "both",
}


def integer(rng):
    return Fraction(rng.choice([rng.randint(-20, 20), rng.randint(-5000, 5000), rng.randint(0, 10**7)]))


def fraction(rng):
    return Fraction(rng.randint(-30, 30), rng.randint(2, 12))


def decimal(rng):
    return Fraction(rng.randint(-(10**5), 10**5), 10 ** rng.randint(1, 3))


def plain(x):
    if x.denominator == 1:
        return str(x.numerator)
    digits = 0
    while (x * 10**digits).denominator != 1:
        digits += 1
        if digits > 12:
            return None
    n = abs(int(x * 10**digits))
    text = str(n).rjust(digits + 1, "0")
    return ("-" if x < 0 else "") + text[:-digits] + "." + text[-digits:]


def sign(x):
    return "-" if x < 0 else ""


def groups(x, separator):
    return None if x.denominator != 1 or abs(x) < 1000 else sign(x) + f"{abs(x.numerator):,}".replace(",", separator)


def indian(x):
    if x.denominator != 1 or abs(x) < 100_000:
        return None
    text = str(abs(x.numerator))
    head, tail = text[:-3], text[-3:]
    parts = []
    while head:
        parts.insert(0, head[-2:])
        head = head[:-2]
    return sign(x) + ",".join([*parts, tail])


def frac(x, command="\\frac", inner=("{%s}", "{%s}")):
    if x.denominator == 1:
        return None
    return f"{sign(x)}{command}{inner[0] % abs(x.numerator)}{inner[1] % x.denominator}"


def mixed(x, write):
    whole, rest = divmod(abs(x.numerator), x.denominator)
    return None if x.denominator == 1 or whole == 0 else f"{sign(x)}{whole}{write % (rest, x.denominator)}"


def whole(x, write):
    return None if x.denominator != 1 else write % x.numerator


def power(x):
    for base in range(2, 60):
        for exponent in (2, 3, 4):
            if x == base**exponent:
                return base, exponent
    return None


def product(x, sign_of_product):
    for a in range(2, 40):
        if x.denominator == 1 and x > a and x % a == 0:
            return f"{a} {sign_of_product} {x.numerator // a}"
    return None


VULGAR = {Fraction(1, 2): "½", Fraction(1, 4): "¼", Fraction(3, 4): "¾", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔"}
FULL = str.maketrans("0123456789.-", "０１２３４５６７８９．－")
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

WAYS = {
    "plain": plain,
    "thousands": lambda x: groups(x, ","),
    "thousands in braces": lambda x: groups(x, "{,}"),
    "thousands, thin": lambda x: groups(x, ",\\!"),
    "spaced thousands": lambda x: groups(x, " "),
    "Indian": indian,
    "slash": lambda x: None if x.denominator == 1 else f"{x.numerator}/{x.denominator}",
    "frac": frac,
    "dfrac": lambda x: frac(x, "\\dfrac"),
    "tfrac": lambda x: frac(x, "\\tfrac"),
    "cfrac": lambda x: frac(x, "\\cfrac"),
    "frac with spaces": lambda x: frac(x, "\\frac", ("{ %s }", "{ %s }")),
    "frac without braces": lambda x: frac(x, "\\frac", ("%s", "%s")) if abs(x.numerator) < 10 and x.denominator < 10 else None,
    "text in fraction": lambda x: frac(x, "\\frac", ("{\\text{%s}}", "{\\text{%s}}")),
    "not in lowest terms": lambda x: f"{sign(x)}\\frac{{{2 * abs(x.numerator)}}}{{{2 * x.denominator}}}",
    "mixed": lambda x: mixed(x, "\\frac{%s}{%s}"),
    "mixed with a slash": lambda x: mixed(x, " %s/%s"),
    "vulgar": lambda x: VULGAR.get(x),
    "currency": lambda x: (lambda t: t and (f"-\\${t[1:]}" if t[0] == "-" else f"\\${t}"))(plain(x)),
    "unit": lambda x: (lambda t: t and f"{t}\\text{{ cm}}")(plain(x)),
    "unit with a power": lambda x: (lambda t: t and f"{t}\\text{{ m}}^3")(plain(x)),
    "degrees": lambda x: (lambda t: t and f"{t}^\\circ")(plain(x)),
    "percent": lambda x: (lambda t: t and f"{t}\\%")(plain(x * 100)),
    "equation": lambda x: (lambda t: t and f"x = {t}")(plain(x)),
    "power": lambda x: (lambda p: p and "%d^{%d}" % p)(power(x)),
    "superscript": lambda x: (lambda p: p and f"{p[0]}{str(p[1]).translate(RAISED)}")(power(x)),
    "root": lambda x: whole(x, "\\sqrt{%d}") and f"\\sqrt{{{x.numerator**2}}}" if 0 <= x < 1000 else None,
    "cube root": lambda x: f"\\sqrt[3]{{{x.numerator**3}}}" if x.denominator == 1 and 0 <= x < 100 else None,
    "root without braces": lambda x: f"\\sqrt {x.numerator**2}" if x.denominator == 1 and 2 <= x < 1000 else None,
    "times": lambda x: product(x, "\\times"),
    "cdot": lambda x: product(x, "\\cdot"),
    "sum": lambda x: f"{x.numerator - 3} + 3" if x.denominator == 1 else None,
    "scientific": lambda x: (lambda t: t and f"{t} \\times 10^{{{2}}}")(plain(x / 100)),
    "exponent": lambda x: (lambda t: t and f"{t}e2")(plain(x / 100)),
    "full width": lambda x: (lambda t: t and t.translate(FULL))(plain(x)),
    "en dash": lambda x: (lambda t: t and "–" + t[1:] if x < 0 else None)(plain(x)),
    "unicode minus": lambda x: (lambda t: t and "−" + t[1:] if x < 0 else None)(plain(x)),
    "point at the end": lambda x: whole(x, "%d."),
    "leading zeros": lambda x: f"0{x.numerator}" if x.denominator == 1 and x > 0 else None,
    "trailing zeros": lambda x: (lambda t: t and (t + "0" if "." in t else t + ".00"))(plain(x)),
    "text": lambda x: whole(x, "\\text{%d}"),
    "mathrm": lambda x: whole(x, "\\mathrm{%d}"),
    "base ten": lambda x: f"{x.numerator}_{{10}}" if x.denominator == 1 and x >= 0 else None,
    "variable": lambda x: (lambda t: t and f"{t}y")(plain(x)),
    "pi": lambda x: (lambda t: t and f"{t}\\pi")(plain(x)),
    "surd": lambda x: (lambda t: t and f"{t}\\sqrt{{2}}")(plain(x)),
    "repeating": lambda x: (
        f"{sign(x)}{int(abs(x))}.\\overline{{{int((abs(x) % 1) * 9)}}}" if x.denominator in (3, 9) else None
    ),
    "six decimals": lambda x: f"{float(x):.6f}" if plain(x) is None else None,
    "two decimals": lambda x: f"{float(x):.2f}" if plain(x) is None else None,
}

# Marks: how a response holds what is written, and how the way is counted where that matters more.
MARKS = [
    ("\\boxed{%s}", None),
    ("So the result is \\boxed{%s}.", None),
    ("Therefore $\\boxed{%s}$, which is what was asked.", None),
    ("The answer is $%s$.", "sentence"),
    ("\\fbox{%s}", "fbox"),
    ("<answer>%s</answer>", "answer tag"),
    ("\\boxed{7} no, \\boxed{%s}", "boxes"),
    ("#### %s dollars for 3 days", "hashes, then a number"),
    ("<think>it may be \\boxed{%s}", "unfinished reasoning"),
    ("It could be 77 or %s", "hedge"),
]

# Answers that are no numbers: (answer, response).
EXPRESSIONS = [
    ("2\\sqrt{2}", "\\sqrt{8}"), ("2\\sqrt{2}", "2\\sqrt2"), ("\\frac{2\\pi}{3}", "\\frac{2}{3}\\pi"), ("\\frac{2\\pi}{3}", "\\frac{\\pi}{3}"),
    ("x^2+2x+1", "(x+1)^2"), ("x^2+2x+1", "1+2x+x^2"), ("x^2+2x+1", "x^2+2x"), ("1+\\sqrt{3}", "\\sqrt{3}+1"), ("1+\\sqrt{3}", "\\sqrt{3}-1"),
    ("\\frac{1+\\sqrt{5}}{2}", "\\frac{1}{2}+\\frac{\\sqrt{5}}{2}"), ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"), ("(1,2)", "(1, 2)"),
    ("(1,2)", "(2,1)"), ("1,2", "2,1"), ("3+4i", "4i+3"), ("\\text{(C)}", "C"), ("\\text{(C)}", "\\text{(B)}"), ("(-\\infty,3]", "(-\\infty, 3]"),
    ("[0,1)", "[0,1]"), ("\\{1,2\\}", "\\{2,1\\}"), ("y=2x+3", "2x+3"), ("\\text{even}", "\\text{even}"), ("\\text{even}", "\\text{odd}"),
    ("\\frac{a}{b}", "a/b"), ("3x+2", "2"), ("\\sqrt{16}", "4"), ("2", "\\frac{8}{4}"), ("\\frac{x}{2}", "0.5x"),
]


def rows(count, seed):
    rng = random.Random(seed)
    out = []
    for answer, said in EXPRESSIONS:
        out.append({"question": "q", "answer": f"\\boxed{{{answer}}}", "response": f"\\boxed{{{said}}}", "way": "expressions", "gold": answer})
    names = list(WAYS)
    while len(out) < count:
        value = rng.choice([integer, fraction, decimal])(rng)
        way = rng.choice(names)
        other = value + rng.choice([0, 0, 0, 1, -1, Fraction(1, 2), value, -2 * value])
        said = WAYS[way](other)
        gold = rng.choice([plain, frac, lambda x: groups(x, ",")])(value)
        if said is None or gold is None:
            continue
        mark, kind = rng.choice(MARKS[:4]) if rng.random() < 0.9 else rng.choice(MARKS)
        if kind == "sentence" and way in ("times", "cdot", "power", "root", "cube root"):
            kind = "product in a sentence"
        name = way if kind in (None, "sentence") else kind
        if way in ("six decimals", "two decimals"):
            name = "decimals" if kind is None else name
        out.append({"question": "q", "answer": f"\\boxed{{{gold}}}", "response": mark % said, "way": name, "gold": gold})
    return out


def theirs(row):
    try:
        gold = parse(f"${row['gold']}$", parsing_timeout=SECONDS)
        return bool(verify(gold, parse(row["response"], parsing_timeout=SECONDS), timeout_seconds=SECONDS))
    except Exception:
        return False


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--lehr", default="target/release/lehr")
    args.add_argument("--count", type=int, default=4000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--golden", type=Path)
    args = args.parse_args()
    made = rows(args.count, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
        said = subprocess.run([args.lehr, "data", "grade", "--task", "math", str(path)], capture_output=True, text=True, check=True)
    ours = [json.loads(line)["correct"] for line in said.stdout.splitlines()]
    table, examples, agreed = defaultdict(Counter), defaultdict(list), []
    for row, mine in zip(made, ours, strict=True):
        other = theirs(row)
        kind = "agree" if mine == other else ("lehr" if mine else "math-verify")
        table[row["way"]][kind] += 1
        if kind == "agree":
            agreed.append({"answer": row["gold"], "response": row["response"], "right": mine})
        elif len(examples[row["way"]]) < 3:
            examples[row["way"]].append((kind, row["gold"], row["response"]))
    unknown = 0
    for way, counts in sorted(table.items()):
        side = KNOWN.get(way)
        strange = sum(n for kind, n in counts.items() if kind not in ("agree", side) and side != "both")
        unknown += strange
        print(f"{way:28} agree {counts['agree']:5}  only lehr {counts['lehr']:4}  only math-verify {counts['math-verify']:4}"
              + ("  (known)" if side else "") + ("  <--" if strange else ""))
        if strange:
            for example in examples[way]:
                print("    ", *example, sep="  ")
    print(f"{len(made)} answers, {sum(c['agree'] for c in table.values())} agree, {unknown} differ in a way that is not known")
    if args.golden:
        rng = random.Random(args.seed)
        sample = rng.sample(agreed, min(200, len(agreed)))
        args.golden.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sample))
    return int(unknown > 0)


if __name__ == "__main__":
    sys.exit(main())
