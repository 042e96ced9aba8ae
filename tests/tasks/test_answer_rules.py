"""What equal answers look like, rule by rule, with the cases that released graders get wrong."""

import pytest

from secateur.tasks.answers.equality import compare_answers, grade_answers

EQUAL = {
    "numbers": [
        ("\\frac{1}{2}", "0.5"), ("\\dfrac{3}{6}", "1/2"), ("\\frac12", ".5"), ("-\\frac{1} { 2}", "\\frac{-1}{2}"),
        ("012", "12"), ("1.0", "1"), ("+3", "3"), ("−5", "-5"), ("1\\frac{4}{5}", "1.8"), ("1 4/5", "9/5"),
        ("-1\\frac12", "-1.5"), ("137 \\frac{1}{2}", "137.5"), ("0.\\overline{3}", "1/3"), ("2^{10}", "1024"),
        ("10!", "3628800"), ("\\binom{5}{2}", "10"), ("2(3)", "6"),
        ("12345678901234567890", "12345678901234567890.0"),
    ],
    "thousands": [
        ("1{,}000", "1000"), ("10,\\!080", "10080"), ("58,500", "58500"), ("11,\\! 111,\\! 100", "11111100"),
        ("1 000 000", "1000000"), ("1,234.5", "1234.5"), ("100, 200", "\\{100,200\\}"),
    ],
    "scientific": [("2.5\\times 10^{3}", "2500"), ("1.5e3", "1500"), ("2\\cdot10^{-2}", "0.02"), ("10^5", "100000")],
    "marks": [
        ("90^\\circ", "90"), ("90^{\\circ}", "90\\text{ degrees}"), ("50\\%", "50"), ("50%", "50 percent"),
        ("\\$18.90", "18.90"), ("\\$36", "36\\text{ dollars}"), ("12\\text{ square units}", "12"), ("$18$", "18"),
    ],
    "units": [
        ("5 km", "5\\text{ km}"), ("5\\text{ km}", "5000\\text{ m}"), ("5km", "5 kilometers"),
        ("60 km/h", "60\\text{ km per hour}"), ("60\\text{ km}/\\text{h}", "60\\frac{\\text{km}}{\\text{h}}"),
        ("15\\mbox{ cm}^2", "15\\text{ square centimeters}"), ("864 \\mbox{ inches}^2", "6\\text{ ft}^2"),
        ("5 apples", "5\\text{ apples}"), ("4:30 \\text{ p.m.}", "4:30\\text{ pm}"),
        ("\\pi\\text{ m}", "100\\pi\\text{ cm}"),
    ],
    "names": [
        ("x=5", "5"), ("5=x", "x = 5"), ("S = \\frac12 \\cdot 4 = 2", "2"), ("x = 2, x = 3", "2,3"),
        ("x=2, 3", "3, 2"),
        ("(x,y)=(1,2)", "(1,2)"), ("a=2,b=3", "b=3, a=2"),
        ("f(2)=5", "5"), ("|AB| = 5", "5"), ("\\angle ABC = 30^\\circ", "30"), ("f(x)=2x", "f(x) = x+x"),
    ],
    "equations": [
        ("y=2x+1", "2x-y+1=0"), ("2y = 4x+2", "y=2x+1"), ("x^2+y^2=1", "2x^2+2y^2=2"),
        ("\\frac{x}{2}+\\frac{y}{3}=1", "3x+2y=6"),
    ],
    "inequalities": [
        ("1<x\\le 2", "x\\in(1,2]"), ("2 \\geq x > 1", "(1,2]"), ("x>3", "(3,\\infty)"), ("3 < x", "x > 3"),
        ("x\\neq 3", "3 \\ne x"), ("|x|<2", "2>|x|"), ("2x+y<3", "4x+2y<6"), ("\\{x \\mid x>3\\}", "x>3"),
        ("x<1 \\text{ or } x>3", "(-\\infty,1)\\cup(3,\\infty)"), ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ],
    "sets": [
        ("\\{1,2\\}", "\\{2,1\\}"), ("1 and 2", "2,1"), ("1 \\text{ and } 2", "\\{1, 2\\}"), ("\\pm 2", "2,-2"),
        ("1\\pm\\sqrt2", "1+\\sqrt2, 1-\\sqrt2"), ("\\{1\\pm\\sqrt{5},-2\\}", "-2, 1-\\sqrt5, 1+\\sqrt5"),
        ("\\{5\\}", "5"),
        ("\\emptyset", "\\varnothing"), ("\\{\\}", "\\emptyset"), ("(\\pm 1, 2)", "(-1,2), (1,2)"),
        ("\\pm 1 \\mp 2", "1, -1"),
    ],
    "words": [
        ("\\text{east}", "East"), ("(A)", "\\textbf{(A)}"), ("A.", "\\text{A}"), ("\\fbox{5}", "5"),
        ("\\text{No}", "no"),
        ("\\text{No solution}", "no  solution."), ("b", "B"),
    ],
    "matrices": [
        ("\\begin{pmatrix}1\\\\ 1/2\\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 0.5 \\\\ \\end{bmatrix}"),
        ("\\left(\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right)",
         "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"),
    ],
    "bases": [("52_8", "52_{8}"), ("52_{\\text{eight}}", "52_8"), ("1a_{16}", "1A_{16}")],
    "formulas": [
        ("x^2+2x+1", "(x+1)^2"), ("xy", "y x"), ("ad", "da"), ("2ad", "2d\\cdot a"),
        ("\\sqrt{12}", "2\\sqrt3"), ("\\frac{\\sqrt3}{3}", "1/\\sqrt{3}"),
        ("\\sin^2 x+\\cos^2 x", "1"), ("\\sin(30^\\circ)", "\\frac12"), ("\\tan 45^\\circ", "1"), ("\\log_2 8", "3"),
        ("3+4i", "4i+3"), ("e^{i\\pi}", "-1"), ("(1+\\sqrt2)(1-\\sqrt2)", "-1"), ("sqrt(2)", "\\sqrt2"),
        ("sinx", "\\sin x"),
        ("\\sqrt[3]{8}", "2"), ("\\frac{x+2}{7}", "x/7+2/7"), ("2\\pi r", "2 r \\pi"), ("+\\infty", "\\infty"),
        ("2k\\pi, k\\in\\mathbb{Z}", "2\\pi k\\ (k \\in \\mathbb Z)"), ("2013!", "2013 \\cdot 2012!"),
        ("1,2,\\ldots", "1, 2, \\dots"),
    ],
}  # fmt: skip
DIFFERENT = {
    "a factor of 100": [("50", "0.5"), ("1", "100"), ("2500", "25"), ("50\\%", "0.5")],
    "large integers": [
        ("99999", "100000"), ("100001", "100000"), ("100000.5", "100000"), ("2^{100}", "2^{100}+1"),
        ("12345678901234567890", "12345678901234567891"), ("10^{50}", "10^{50}+1"),
    ],
    "approximations": [("3.14159", "\\pi"), ("0.333", "1/3"), ("0.3333333333", "1/3"), ("1.414", "\\sqrt2")],
    "brackets": [("(1,2)", "[1,2]"), ("[1,2)", "[1,2]"), ("(1,2]", "[1,2)"), ("(1,2)", "1,2"), ("(1,2)", "(2,1)")],
    "units": [
        ("5\\text{ km}", "5\\text{ cm}"), ("5 km", "5 cm"), ("15\\text{ cm}^2", "15\\text{ cm}"), ("5 km", "5"),
        ("4:30 \\text{ p.m.}", "4:30\\text{ a.m.}"), ("60\\text{ km/h}", "60\\text{ m/s}"),
    ],
    "sets": [("\\pm 2", "2"), ("\\{1,2\\}", "\\{1,2,3\\}"), ("1234", "(1,234)"), ("1,2", "12"), ("2 3", "23")],
    "relations": [
        ("x>3", "x\\ge 3"), ("x<2", "x>2"), ("2x+y<3", "2x+y>3"), ("2x+y<3", "2x+y\\le 3"), ("y=2x+1", "y=2x-1"),
        ("x\\ne 3", "x=3"), ("x=1,y=2", "x=2,y=1"), ("2x=6", "6"), ("x^2=4", "4"), ("y=2x+1", "2x+1"),
    ],
    "words": [("east", "west"), ("A", "B"), ("yes", "no"), ("\\text{seat}", "east")],
    "bases": [("52_8", "52_9"), ("52_8", "42"), ("52_8", "52")],
    "matrices": [("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}")],
    "formulas": [
        ("p-q", "q-p"), ("1+2i", "1-2i"), ("x", "-x"), ("|x|", "x"), ("\\sqrt{x^2}", "x"), ("2x", "x^2"),
        ("R-r", "0"),
        ("\\infty", "-\\infty"), ("3:4", "4:3"), ("\\lfloor \\sqrt{n} \\rfloor", "0"),
        ("2016^{2015}", "2016^{2015}+1"),
        ("10^{10^{10}}", "10^{10^{11}}"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("rule", EQUAL)
def test_equal_answers(rule: str) -> None:
    check(EQUAL[rule], True)


@pytest.mark.parametrize("rule", DIFFERENT)
def test_different_answers(rule: str) -> None:
    check(DIFFERENT[rule], False)


def check(pairs: list[tuple[str, str]], same: bool) -> None:
    verdicts = compare_answers(pairs + [(b, a) for a, b in pairs])
    wrong = [pair for pair, verdict in zip(pairs * 2, verdicts, strict=True) if verdict is not same]
    assert not wrong


RIGHT = {  # rule: gold, what is right for it, what is wrong
    "announced": (
        "42",
        ["\\therefore x=42", "\\implies 42", "\\text{So }42", "\\text{Thus, }42", "\\text{Total: }42", "*42*",
         "\\text{The sum is }42", "42\\text{.}", "42\\ \\square", "x:=42", "{-}(-42)", "\\left. 42\\right."],
        ["\\text{So not }42", "\\text{Total: not }42", "\\text{Total: }42, 43", "\\text{The value is at most }42",
         "41\\Rightarrow 42", "*42* or *43*", "\\therefore x\\ne 42", "\\text{The wrong answer is }42"],
    ),
    "below a number": (
        "42",
        ["42_{10}", "42_{\\text{ten}}", "42_{dec}"],
        ["42_b", "42_n", "42_{(8)}", "42_{base 8}", "42_{oct}", "42\\text{ base }8", "42 base 8", "42_{8}+0"],
    ),
    "counted": (
        "42",
        ["42\\text{ people per square mile}", "42\\text{ pounds of green apples}", "42\\text{ groups of 5}",
         "42\\text{ (cm)}", "42\\text{ times}"],
        ["42\\text{ point 5}", "42\\text{ onwards}", "42\\text{ ...}", "42\\text{ (thousand)}", "42\\text{ (not)}",
         "42\\text{ because other things differ}", "42\\text{ pounds minus some apples}"],
    ),
    "options": (
        "\\textbf{(E)}\\ {-}\\frac12",
        ["E", "(E) -\\frac12", "-\\frac12", "\\text{(E)}", "\\text{E: }-0.5"],
        ["(D) -\\frac12", "E-\\frac12", "\\text{(E) ruled out}", "\\text{(E) or not (E)}", "\\frac12"],
    ),
    "digits that are letters": ("2A_{16}", ["2A", "2a_{hex}", "2A\\text{ (base 16)}"], ["2B", "42", "2A_8"]),
    "a base in words": ("52_8", ["52\\text{ in base }8", "{52}_8", "52_{\\text{base eight}}", "52"], ["42", "52_9"]),
    "options that end in a letter": (
        "B",
        ["(B) Vitamin C", "B. Group A", "\\text{(B) Point B}", "B) the box J."],
        ["(C) Group B", "group B", "(B) Vitamin C, (C)", "(B) Vitamin C, C", "(B) wait, vitamin C", "(B) C",
         "(B) not vitamin C, vitamin B", "(A) plan A (B) plan B", "(B) option C", "(B) vitamin A vitamin C"],
    ),
    "steps before a value": (
        "42",
        ["2x=84, x=42", "2x+3=87, 2x=84, x=42", "x-2=40; x=42", "2x=84 \\implies x=42", "x^2=1764, x=42",
         "\\frac{x}{2}=21\\Rightarrow x=42", "2x=84 \\text{ and } x=42"],
        ["2x=86, x=42", "x=43, x=42", "2x=84, 3x=129, x=42", "2x=84, x=42, y=43", "2x=84, x=42, x=43",
         "2x=84 \\text{ or } x=42", "x>1, x=42", "43, x=42", "x=42 \\implies x=43", "43 \\implies 42",
         "x+y=43, x=42", "e=e, e=42", "2x=84"],
    ),
    "two solutions": ("-2, 2", ["x^2=4, x=\\pm 2"], ["x^2=4, x=2"]),
    "a distance to be solved": (
        "|x-4|\\le 1",
        ["3\\le x\\le 5", "[3,5]", "|4-x|\\le 1", "1\\ge|x-4|", "|2x-8|\\le 2"],
        ["(3,5)", "3<x<5", "4", "[-5,-3]", "|x-4|<1"],
    ),
    "a distance that is exceeded": (
        "|2x+1|>\\frac12",
        ["x<-\\frac34\\text{ or }x>-\\frac14", "(-\\infty,-\\frac34)\\cup(-\\frac14,\\infty)"],
        ["(-\\frac34,-\\frac14)", "x>-\\frac14"],
    ),
    "a distance that was solved": ("(3,5)", ["3<x<5"], ["|x-4|<1"]),  # it only repeats the problem
    "no distance": ("|x-y|<1", [], ["(-1,1)"]),
    "letters": ("B", ["\\text{Ans. (B)}", "\\text{So B}", "\\text{Solution: B}"], ["A=B", "A=B=C"]),
    "left sides without a value": (
        "7",
        ["V_{\\text{cone}}=7",
         "\\lim_{x\\to0}f(x)=7", "\\int_0^1 f(x)\\,dx=7", "\\sum a_i=7", "\\max f=7", "\\|v\\|=7",
         "\\alpha+\\beta=7", "f(1)+f(2)=7", "\\cos^2 A=7", "\\hat{p}=7", "\\sin 2\\theta=7", "R_\\theta=7"],
        ["\\lim_{x\\to0}\\frac{\\sin x}{x}=7", "\\int_0^1 x\\,dx=7", "\\sum_{k=1}^3 k=7", "\\max(1,2)=7",
         "\\cos\\pi=7", "2f(2)=7", "3\\alpha=7", "f(1)+f(2)=3+3=7"],
    ),
    "lines": (
        "(2,3)",
        ["\\begin{aligned}x&=2\\\\y&=3\\end{aligned}", "x=2 \\\\ y=3", "x=2\\text{, }y=3", "P(2,3)",
         "(x_0,y_0)=(2,3)",
         "(y,x)=(3,2)", "(r,\\theta)=(2,3)"],
        ["(y,x)=(2,3)", "x=2\\text{ or }y=3", "P(3,2)", "P(2,3), Q(4,5)", "\\begin{aligned}x&=2\\end{aligned}"],
    ),
    "named": (
        "x=2, y=3", ["y=3\\text{ and }x=2", "(x,y)=(2,3)", "(2,3)"], ["x=2\\text{ or }y=3", "x=2"],
    ),
    "indexed": ("2, 3", ["x_1=2\\text{ or }x_2=3", "x=2\\text{ or }x=3"], ["x=2\\text{ or }y=3", "(2,3)"]),
    "cases": (
        "f(x)=\\begin{cases}1 & x>0\\\\ -1 & x\\le 0\\end{cases}",
        ["\\begin{cases}-1, & \\text{if }x\\le 0\\\\ 1, & \\text{if }x>0\\end{cases}",
         "\\left\\{\\begin{array}{ll}1 & 0<x\\\\ -1 & x\\le 0\\end{array}\\right.",
         "\\begin{dcases}1 & x>0\\\\[2pt] -1 & x\\le 0\\end{dcases}"],
        ["\\begin{cases}-1 & x>0\\\\ 1 & x\\le 0\\end{cases}", "2\\begin{cases}1 & x>0\\\\ -1 & x\\le 0\\end{cases}"],
    ),
    "matrices": (
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        ["\\left(\\begin{smallmatrix}1&2\\\\3&4\\end{smallmatrix}\\right)",
         "\\begin{pmatrix}1&2\\cr 3&4\\end{pmatrix}",
         "\\begin{pmatrix}{1}&{2}\\\\{3}&{4}\\end{pmatrix}", "M^n=\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"],
        ["\\begin{pmatrix}{2}&{2}\\\\{3}&{4}\\end{pmatrix}"],
    ),
    "powers": ("\\sqrt[3]{2}", ["2^\\frac13", "2^(1/3)", "2**(1/3)", "2^{1/3}"], ["2^(1)/3", "2^(3)", "2^\\frac31"]),
    "small powers": ("0.001", ["10^-3", "10**-3", "10^{-3}"], ["10^3", "10-3"]),
    "negated relations": ("x<3", ["x\\ngeq 3", "x\\not\\ge 3"], ["x\\ge 3", "x\\ngtr 3", "x\\nleq 3"]),
    "approximations": (
        "\\frac{2}{3}", ["\\frac23\\simeq0.667", "\\frac{2}{3} (\\approx 0.667)"], ["\\frac23 (\\approx 0.5)"],
    ),
    "membership": (
        "[1,2]",
        ["x in [1,2]", "x\\text{ in }[1,2]", "x\\in\\mathbb{R}, 1\\le x\\le 2"],
        ["x not in [1,2]", "x\\in[1,2)\\text{ and }x\\in(3,4)"],
    ),
    "joined": (
        "(0,1)\\cup(2,3)",
        ["x\\in(0,1)\\text{ or }x\\in(2,3)", "(0,1) U (2,3)", "(0,1)\\bigcup(2,3)"],
        ["x\\in(0,1)\\text{ and }x\\in(2,3)", "(0,1)\\cap(2,3)"],
    ),
    "sets within sets": (
        "\\{1,2,3\\}", ["1,2,3", "\\{3,1,2\\}"], ["\\{\\{1,2\\},\\{3\\}\\}", "\\{\\{1,2,3\\}\\}"]
    ),
    "nothing": ("\\emptyset", ["\\{\\}", "\\varnothing"], ["\\{\\emptyset\\}", "\\{\\{\\}\\}", "\\{0\\}"]),
    "no solutions": ("\\text{no solution}", ["No solutions."], ["\\text{one solution}"]),
    "repeating decimals": ("\\frac{1}{6}", ["0.1\\dot6", "0.1(6)", "0.1\\bar6"], ["0.(1)6", "0.16", "0.(16)"]),
    "complex": (
        "2e^{i\\pi/6}", ["2\\operatorname{cis}\\frac{\\pi}{6}", "2\\text{ cis }30^\\circ"], ["2\\cos\\frac{\\pi}{6}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RIGHT)
def test_right_answers(rule: str) -> None:
    gold, right, wrong = RIGHT[rule]
    answers = [gold, *right, *wrong]
    verdicts = grade_answers(answers, [gold] * len(answers))
    assert dict(zip(answers, verdicts, strict=True)) == {one: one in (gold, *right) for one in answers}
