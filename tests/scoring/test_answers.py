"""Answers judged by rules. Each group says why its rows score what they score."""

from __future__ import annotations

import random
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from itertools import permutations, product
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.scoring.answers import judge, normalise
from sifthinker.scoring.reading import LONGEST
from sifthinker.scoring.text import canonical, tokens
from sifthinker.scoring.words import listed

ANIMALS = ("a cat", "a dog", "two dogs")
COLOURS = ("red", "blue")
SHADES = ("red", "dark red", "blue")
LABELLED = ("A. red", "B. blue", "C. dark red")
PAINTS = ("red", "blue", "green", "yellow")
COUNTS = ("1", "2", "3", "4")
YES_NO = ("yes", "no")
NINES, EIGHTS = "9" * 400, "8" * 400

Row = tuple[str, str, Sequence[str], float]
ROWS: dict[str, list[Row]] = {
    "a letter is stated alone, bracketed, labelled, or behind words that only introduce it": [
        (said, "B", (), 1)
        for said in (
            "B", "b", "(B)", "(b)", "[B]", "{B}", "<B>", "B.", "B)", "B:", "B,", "B!", "B\n", " B ", "**B**",
            "__B__", "*B*", "`B`", "'B'", "“B”",
            "# B", "> B", "- B", "「B」", "【B】", "（Ｂ）", "Ｂ", "B。", "Ⓑ", "$B$", "$$B$$",
            "\\boxed{B}", "\\boxed{\\text{B}}", "$\\boxed{\\textbf{(B)}}$", "\\(B\\)", "\\text{B}", "<b>B</b>",
            "**(B)**", "**Answer:** B", "Answer: B", "answer: b", "Answer - B", "ANSWER: B", "Answer:\nB",
            "Answer B", "The answer is B", "The answer is (B).", "The answer is: B", "The correct answer is B",
            "The correct answer is **B**.", "The correct option is B.", "Final answer: B",
            "Final Answer: \\boxed{B}", "Therefore, the answer is B.", "So the final answer is B",
            "the answer is b", "Option B", "option (b)", "option b", "Choice: B", "Choice B.", "I choose B",
            "I'd go with B", "I think it's B", "It's B", "It is B.", "It must be B", "B is correct",
            "B is the correct answer.", "B is right", "B, because it is nearer.", "B because it is nearer",
            "B - red", "b) red", "B: red", "B. red", "B.red", "(B) red", "[B] red", "B) The red one.",
            "B — red", "B. Vitamin C", "B. a dog", "B. A dog", "B. I think", "Between them, I choose B.",
            "答案是B", "答案：B", "选B", "选择 B。", "B B", "B. B", "B\nB",
            "B ✅", '{"answer": "B"}', "B</answer>", "B<|im_end|>",
        )
    ],
    "a letter of another option is wrong": [
        (said, "B", (), 0)
        for said in ("A", "(C)", "The answer is A.", "A. red", "Option D", "a", "D) blue", "\\boxed{A}", "AB", "Z")
    ],
    "words that begin with a letter, articles, pronouns and names state no letter": [
        ("Bananas", "B", (), 0),
        ("a dog", "B", (), 0),
        ("A dog", "A", (), 0),
        ("A dog.", "A", (), 0),
        ("A", "A", (), 1),
        ("a", "A", (), 1),
        ("A. dog", "A", (), 1),
        ("A is correct", "A", (), 1),
        ("It is a dog", "A", (), 0),
        ("It's A.", "A", (), 1),
        ("I think so", "I", (), 0),
        ("I am not sure", "I", (), 0),
        ("I'm sure it is B", "I", (), 0),
        ("I", "I", (), 1),
        ("Vitamin C", "C", (), 0),
        ("plan B", "B", (), 0),
        ("A. Vitamin C", "A", (), 1),
        ("A. Vitamin C", "C", (), 0),
        ("e.g. red", "E", (), 0),
        ("U.S.", "U", (), 0),
        ("X-ray", "X", (), 0),
        ("C++", "C", (), 0),
        ("A+", "A", (), 0),
        ("B2", "B", (), 0),
        ("Don't know", "D", (), 0),
        ("", "A", (), 0),
        ("...", "A", (), 0),
    ],
    "two letters are none, however they are joined": [
        (said.replace("‹", x).replace("›", y), "B", (), 0)
        for said in (
            "‹ or ›", "‹ and ›", "‹, ›", "‹/›", "‹ & ›", "‹; ›", "‹. ›", "‹. or ›.", "(‹) or (›)", "(‹)(›)",
            "‹ (or maybe ›)", "‹ (›)", "‹\n›", "‹ ›", "‹-›", "‹+›", "‹|›", "‹ = ›", "‹? ›", "‹? ›!",
            "both ‹ and ›", "either ‹ or ›", "neither ‹ nor ›", "The answer is ‹ or ›",
            "The answer is ‹. The answer is ›.", "Answer: ‹\nAnswer: ›", "‹, maybe ›", "‹. red ›. blue",
            "\\boxed{‹} \\boxed{›}", "The answer is ‹ (›)", "Option ‹ or option ›",
            "‹ is correct, › is correct", "‹ … ›", "‹ → ›", "‹.›.", "‹ and possibly also ›",
        )
        for x, y in (("B", "D"), ("D", "B"))
    ],
    "a letter that is denied or only possible is not stated": [
        ("The answer is not B", "B", (), 0),
        ("not B", "B", (), 0),
        ("Not B.", "B", (), 0),
        ("It isn't B", "B", (), 0),
        ("It isn’t (B)", "B", (), 0),
        ("anything but B", "B", (), 0),
        ("all except B", "B", (), 0),
        ("B is not correct", "B", (), 0),
        ("B is wrong.", "B", (), 0),
        ("B isn't right", "B", (), 0),
        ("not: B", "B", (), 0),
        ("not A but B", "B", (), 1),
        ("Not A, B.", "B", (), 1),
        ("B, not A", "B", (), 1),
        ("B, not A", "A", (), 0),
        ("B rather than A", "A", (), 0),
        ("not only A but also B", "B", (), 0),
        ("not B; B", "B", (), 0),
        ("B? Not B.", "B", (), 0),
        ("maybe B", "B", (), 0),
        ("B or something else", "B", (), 0),
    ],
    "a final-answer phrase decides over what was considered before it": [
        ("I considered (A), but the answer is D.", "A", (), 0),
        ("I considered (A), but the answer is D.", "D", (), 1),
        ("Option A shows a cat. Option B shows a dog. The answer is B.", "B", (), 1),
        ("Option A shows a cat. Option B shows a dog. The answer is B.", "A", (), 0),
        ("It could be red, but the answer is blue.", "blue", COLOURS, 1),
        ("It could be red, but the answer is blue.", "red", COLOURS, 0),
        ("2 are left and 2 right, so the answer is 4.", "4", (), 1),
        ("2 are left and 2 right, so the answer is 4.", "2", (), 0),
        ("The answer is not A. The answer is B.", "B", (), 1),
        ("B is the answer", "B", (), 1),
        ("A looks plausible at first. \\boxed{B}", "B", (), 1),
        # but not over an answer that was already given
        ("A. The answer is B.", "A", (), 0),
        ("A. The answer is B.", "B", (), 0),
        ("red\nThe answer is blue", "blue", COLOURS, 0),
        ("4. The answer is 5.", "5", (), 0),
    ],
    "with choices a letter names its option": [
        (said, truth, COLOURS, 1)
        for said in (
            "B", "b", "(B)", "**B**", "The answer is B", "B. blue", "(B) blue", "B - blue", "B: blue",
            "b) blue", "blue", "Blue.", "BLUE", "It is blue", "The blue one.", "\\boxed{blue}", "Answer: blue",
            "the answer is (B) blue", "**B. blue**", "Option B: blue", "It's blue!", "“blue”", "blue, not red",
            "not red but blue", "It is the blue one, not the red one", "Blue\n\nBlue", "B blue",
        )
        for truth in ("B", "blue", "B. blue", "(B)", "b) blue", "Blue")
    ],
    "a letter and words that contradict each other state two options": [
        ("B. red", "blue", COLOURS, 0),
        ("B. red", "red", COLOURS, 0),
        ("B red", "red", COLOURS, 0),
        ("(A) blue", "blue", COLOURS, 0),
        ("A. blue", "blue", COLOURS, 0),
        ("A: blue", "A", COLOURS, 0),
        ("A blue car", "blue", COLOURS, 1),  # an article
        ("C", "blue", COLOURS, 0),
        ("C. blue", "blue", COLOURS, 0),
    ],
    "options may bear labels of their own": [
        *((said, "B. blue", LABELLED, 1) for said in ("B", "B. blue", "(B)", "(B) blue", "blue", "b", "B: blue")),
        *((said, "C", LABELLED, 1) for said in ("C", "dark red", "C. dark red", "It is dark red.", "(c)",
        "C) Dark red")),
        *((said, "red", LABELLED, 0) for said in ("B", "C", "dark red", "B. red", "A. blue", "A or B", "red or blue")),
        ("A", "red", LABELLED, 1),
        ("B", "blue", ("(A) red", "(B) blue"), 1),
        ("blue", "B", ("(A) red", "(B) blue"), 1),
        ("(B) blue", "(B) blue", ("(A) red", "(B) blue"), 1),
        ("B", "B) blue", ("A) red", "B) blue"), 1),
        ("B", "blue", ("A: red", "B: blue"), 1),
        ("B", "blue", ("a) red", "b) blue"), 1),
        ("B", "blue", ("A - red", "B - blue"), 1),
        ("B", "blue", ("B. blue", "A. red"), 1),  # the label, not the place
        ("A", "blue", ("B. blue", "A. red"), 0),
        ("B", "B. red", ("B. red", "C. blue"), 1),
        ("B", "C. blue", ("B. red", "C. blue"), 0),
        ("C", "C. blue", ("B. red", "C. blue"), 1),
        ("B", "红色", ("A、蓝色", "B、红色"), 1),
        ("B", "Ｂ．red", ("Ａ．blue", "Ｂ．red"), 1),
        ("Image B", "Image B", ("Image A", "Image B"), 1),
        ("B", "Image B", ("Image A", "Image B"), 1),
        ("2", "blue", ("1. red", "2. blue"), 1),
        ("2) blue", "2", ("1) red", "2) blue"), 1),
        ("1", "blue", ("1. red", "2. blue"), 0),
        ("blue", "2. blue", ("1. red", "2. blue"), 1),
    ],
    "options that are single letters": [
        ("A", "A", ("A", "B"), 1),
        ("B", "A", ("A", "B"), 0),
        ("(B)", "B", ("A", "B"), 1),
        ("B", "B", ("B", "A"), 1),
        ("A", "B", ("B", "A"), 0),
        ("a", "A", ("A", "B", "C", "D"), 1),
        ("the", "A", ("A", "B", "C", "D"), 0),
        ("...", "A", ("A", "B", "C", "D"), 0),
        ("A or B", "A", ("A", "B"), 0),
        ("A dog", "A", ("A", "B"), 0),
        ("X", "X", ("O", "X"), 1),
        ("It's an X", "X", ("O", "X"), 1),
        ("O", "X", ("O", "X"), 0),
        ("X or O", "X", ("O", "X"), 0),
        ("The letter is C", "C", ("C", "D"), 1),
        ("not C", "C", ("C", "D"), 0),
    ],
    "options by their words; of two at one place the longer": [
        ("The dog.", "a dog", ANIMALS, 1),
        ("It is a cat", "a dog", ANIMALS, 0),
        ("a cat or a dog", "a dog", ANIMALS, 0),
        ("a dog", "B", ANIMALS, 1),
        ("B", "a dog", ANIMALS, 1),
        ("(C)", "a dog", ANIMALS, 0),
        ("It is the red one, not the green one", "red", COLOURS, 1),
        ("2 dogs", "two dogs", ANIMALS, 1),
        ("Z", "a dog", ANIMALS, 0),
        ("dark red", "dark red", SHADES, 1),
        ("It is dark red", "dark red", SHADES, 1),
        ("dark red", "red", SHADES, 0),
        ("dark-red", "dark red", SHADES, 1),
        ("red, dark red", "red", SHADES, 0),
        ("red or dark red", "dark red", SHADES, 0),
        ("in front", "behind", ("in front", "behind"), 0),
        ("it is behind", "behind", ("in front", "behind"), 1),
        ("in front of it", "in front", ("in front", "behind"), 1),
        ("Vitamin C", "Vitamin C", ("Vitamin D", "Vitamin C"), 1),
        ("Vitamin C", "Vitamin D", ("Vitamin D", "Vitamin C"), 0),
        ("not sure", "not sure", ("sure", "not sure"), 1),
        ("sure", "not sure", ("sure", "not sure"), 0),
        ("red, white and blue", "red, white and blue", ("red, white and blue", "red"), 1),
        ("It is red white and blue", "red, white and blue", ("red, white and blue", "red"), 1),
        ("red", "red, white and blue", ("red, white and blue", "red"), 0),
        ("-", "+", ("+", "-"), 0),
        ("+", "+", ("+", "-"), 1),
        ("C#", "C++", ("C", "C++", "C#"), 0),
        ("C++", "C++", ("C", "C++", "C#"), 1),
        ("C", "C++", ("C", "C++", "C#"), 0),
        ("its", "it's", ("its", "it's"), 0),
        ("it's", "it's", ("its", "it's"), 1),
        ("Polish", "Polish", ("polish", "Polish"), 1),
        ("polish", "Polish", ("polish", "Polish"), 0),
        ("Polish.", "Polish", ("polish", "Polish"), 1),
        ("POLISH", "polish", ("polish", "Polish"), 0),
        ("red, blue", "red blue", ("red", "blue", "red blue"), 0),
        ("red blue", "red blue", ("red", "blue", "red blue"), 1),
        ("It is red blue.", "red blue", ("red", "blue", "red blue"), 1),
        ("red", "red", ("red", "red", "blue"), 1),
        ("B", "red", ("red", "blue", "red"), 0),
        ("红色", "红色", ("红色", "蓝色"), 1),
        ("B", "蓝色", ("红色", "蓝色"), 1),
        ("红色。", "蓝色", ("红色", "蓝色"), 0),
        ("(2,1)", "(2, 1)", ("(1, 2)", "(2, 1)"), 1),
        ("(1, 2)", "(2, 1)", ("(1, 2)", "(2, 1)"), 0),
        ("50 percent", "50%", ("50%", "25%"), 1),
        ("10:30 am", "10:30", ("10:30", "11:30"), 1),
        ("10:30-11:30", "10:30", ("10:30", "11:30"), 0),
        ("3 or more", "3 or more", ("0", "1", "2", "3 or more"), 1),
        ("May", "January", ("January", "May"), 0),
        ("true", "true", ("true", "false"), 1),
        ("false", "true", ("true", "false"), 0),
        ("It is false", "false", ("true", "false"), 1),
        ("both", "red", COLOURS, 0),
        ("either", "red", COLOURS, 0),
        ("red", "Red", COLOURS, 1),
        ("a fish", "a fish", ANIMALS, 1),
        ("a dog", "a fish", ANIMALS, 0),
    ],
    "options that are numbers": [
        ("two", "2", COUNTS, 1),
        ("2", "2", COUNTS, 1),
        ("B", "2", COUNTS, 1),
        ("B. 2", "2", COUNTS, 1),
        ("B. 3", "2", COUNTS, 0),
        ("B. 3", "3", COUNTS, 0),
        ("There are 2 of them.", "2", COUNTS, 1),
        ("2 or 7", "2", COUNTS, 0),
        ("2 or 3", "2", COUNTS, 0),
        ("2, 3", "2", COUNTS, 0),
        ("2-3", "2", COUNTS, 0),
        ("not 3", "3", ("3", "4"), 0),
        ("not 4", "4", ("3", "4"), 0),
        ("12", "2", COUNTS, 0),
        ("5 kg", "5 kg", ("5 kg", "10 kg"), 1),
        ("5kg", "5 kg", ("5 kg", "10 kg"), 1),
        ("5", "5 kg", ("5 kg", "10 kg"), 1),
        ("5 m", "5 kg", ("5 kg", "10 kg"), 0),
        ("10", "5 kg", ("5 kg", "10 kg"), 0),
        ("$5", "$5", ("$5", "$10"), 1),
        ("1.5", "1.5", ("1.5", "2.5"), 1),
        ("2.5", "1.5", ("1.5", "2.5"), 0),
    ],
    "nothing is chosen by saying what it is not, or two things at once": [
        (said, "red", COLOURS, 0)
        for said in (
            "not red", "It isn't red.", "It isn’t the red one", "isn't red", "never red", "anything but red",
            "neither red nor blue", "everything except red", "other than red", "instead of red",
            "blue instead of red", "red or blue", "red and blue", "red, blue", "red/blue", "red; blue",
            "red\nblue", "red? blue", "red. blue.", "red blue", "red-blue", "red+blue", "red & blue",
            "red|blue", "both red and blue", "either red or blue", "red (or blue)", "red (blue)",
            "red and not red", "red; not red", "not red; red", "red; not blue; blue", "red or something",
            "red is not the answer", "red is wrong", "red isn't it", "A or B", "A. red B. blue", "maybe red",
            "possibly red", "It might be red", "It could be red", "red vs blue", "red, then blue", "no red",
            "non-red", "without red", "not only red but also blue", "neither", "none", "unknown", "not sure",
            "", "?", "The answer is red. The answer is blue.",
            "red\u200b or blue", "red" + " " * 500 + "blue", "blue red", "I cannot say red", "It is not: red",
        )
    ],
    "yes and no": [
        ("Yes", "yes", (), 1),
        ("Yes.", "Yes", (), 1),
        ("YES!", "yes", (), 1),
        ("yes, it is", "Yes.", (), 1),
        ("Yes, it is.", "yes", (), 1),
        ("**Yes**", "yes", (), 1),
        ("The answer is yes.", "yes", (), 1),
        ("Answer: Yes", "yes", (), 1),
        ("So yes, it is.", "yes", (), 1),
        ("I think so, yes.", "yes", (), 1),
        ("No", "no", (), 1),
        ("No, it is not.", "no", (), 1),
        ("No, there isn't one", "no", (), 1),
        ("No, there isn’t one.", "no", (), 1),
        ("No, it is not.", "no", YES_NO, 1),
        ("No dogs are visible.", "no", (), 1),
        ("No. There are none.", "no", (), 1),
        ("No, it is red.", "no", YES_NO, 1),
        ("Yes, there is no dog.", "yes", (), 1),
        ("B", "no", YES_NO, 1),
        ("B. No", "no", YES_NO, 1),
        ("Yes ✅", "yes", (), 1),
        ("✅ Yes", "yes", (), 1),
        ("Yes", "Yes, it is", ("Yes, it is", "No, it is not"), 1),
        ("No.", "No, it is not", ("Yes, it is", "No, it is not"), 1),
        ("Yes", "No, it is not", ("Yes, it is", "No, it is not"), 0),
        ("A. No", "no", YES_NO, 0),
        ("No", "yes", (), 0),
        ("Yes", "no", (), 0),
        ("no", "yes", YES_NO, 0),
        ("No, it is not.", "yes", (), 0),
        ("YES it's not blocked", "yes", (), 1),
        ("No there is not", "no", (), 1),
        ("No one", "no", (), 1),
        ("Yes, no doubt", "yes", (), 1),
        ("no doubt", "no", (), 0),
        ("no idea", "no", (), 0),
        ("Yes is wrong", "yes", (), 0),
        ("Maybe yes", "yes", (), 0),
        ("maybe", "yes", (), 0),
        ("not sure", "no", (), 0),
        ("not sure", "yes", (), 0),
        ("unknown", "no", (), 0),
        ("not yes", "yes", (), 0),
        ("There is no dog", "yes", (), 0),
        ("It is", "yes", (), 0),
        ("", "no", (), 0),
        *(
            (said, truth, choices, 0)
            for said in (
                "Yes and no", "yes or no", "Yes? No.", "yes/no", "yes, no", "yes no", "Yes\nNo", "No. Yes.",
                "no, yes", "yes (no)", "yes-no", "either yes or no", "both yes and no", "Yes, or maybe no",
                "Yes. No, it is not.", "The answer is yes. The answer is no.",
            )
            for truth in YES_NO
            for choices in ((), YES_NO)
        ),
    ],
    "numbers in digits and words": [
        ("4", "4", (), 1),
        ("four", "4", (), 1),
        ("Four.", "4", (), 1),
        ("4", "four", (), 1),
        ("There are four dogs.", "4", (), 1),
        ("The answer is 4.", "4", (), 1),
        ("**4**", "4", (), 1),
        ("\\boxed{4}", "4", (), 1),
        ("$4$", "4", (), 1),
        ("about 4", "4", (), 1),
        ("4?", "4", (), 1),
        ("4.0", "4", (), 1),
        ("4.", "4", (), 1),
        ("2.50", "2.5", (), 1),
        ("2.5", "2.50", (), 1),
        ("2.51", "2.5", (), 0),
        ("0.30", ".3", (), 1),
        (".5", "0.5", (), 1),
        (".5", "5", (), 0),
        ("007", "7", (), 1),
        ("1,200", "1200", (), 1),
        ("1,234,567.0", "1234567", (), 1),
        ("12,34,567", "1234567", (), 1),
        ("1'234", "1234", (), 1),
        ("1 234", "1234", (), 1),
        ("1\u202f234", "1234", (), 1),
        ("1.234,5", "1234.5", (), 1),
        ("1.234", "1234", (), 0),
        ("3,5", "3.5", (), 0),
        ("3,5", "3,5", (), 1),
        ("+4", "4", (), 1),
        ("twenty-one", "21", (), 1),
        ("twenty one", "21", (), 1),
        ("Twenty‐one", "21", (), 1),
        ("one-hundred", "100", (), 1),
        ("a hundred and twenty-one", "121", (), 1),
        ("two thousand and twelve", "2012", (), 1),
        ("one million three hundred thousand six", "1300006", (), 1),
        ("1.5 million", "1500000", (), 1),
        ("5k", "5000", (), 1),
        ("5k", "5", (), 0),
        ("a dozen", "12", (), 1),
        ("two and a half", "2.5", (), 1),
        ("two and a half", "2", (), 0),
        ("2 1/2", "2.5", (), 1),
        ("2½", "2.5", (), 1),
        ("½", "0.5", (), 1),
        ("1/2", "0.5", (), 1),
        ("\\frac{1}{2}", "1/2", (), 1),
        ("2/4", "1/2", (), 1),
        ("1/2", "1", (), 0),
        ("1/3", "0.333", (), 0),
        ("1e5", "100000", (), 1),
        ("2.5e-1", "0.25", (), 1),
        ("five", "4", (), 0),
        ("44", "4", (), 0),
        ("", "4", (), 0),
        ("one hundred", "1", (), 0),
        ("twenty thirty", "20", (), 0),
        ("No, one", "1", (), 1),
        ("No, only one", "1", (), 1),
        ("the only one", "1", (), 0),
        ("no one", "1", (), 0),
        ("No one.", "0", (), 1),
        ("none", "0", (), 1),
        ("0", "none", (), 1),
        ("zero", "0", (), 1),
        ("no dogs", "0", (), 1),
        ("There are no dogs.", "0", (), 1),
        ("There aren't any", "0", (), 1),
        ("no idea", "0", (), 0),
        ("No", "0", (), 0),
        ("No, there are 4", "4", (), 1),
        ("No. 5", "5", (), 1),
        ("no. 5", "5", (), 1),
        ("№ 5", "5", (), 1),
        ("#5", "5", (), 1),
        ("number 5", "5", (), 1),
        ("2", "٢", (), 1),
        ("²", "2", (), 0),
        ("5²", "52", (), 0),
        ("5²", "5", (), 0),
        ("①", "1", (), 1),
        ("4只狗", "4", (), 1),
        ("有4只", "4", (), 1),
        ("The red one is 1 of them", "1", (), 1),
        ("Four, the first one", "4", (), 1),
        ("four-legged", "4", (), 0),
        ("MP3", "3", (), 0),
    ],
    "signs": [
        ("-5", "-5", (), 1),
        ("−5", "-5", (), 1),
        ("− 5", "-5", (), 1),
        ("–5", "-5", (), 1),
        ("－5", "-5", (), 1),
        ("minus 5", "-5", (), 1),
        ("minus 7", "-7", (), 1),
        ("negative five", "-5", (), 1),
        ("-$5", "-5", (), 1),
        ("negative seven", "7", (), 0),
        ("-5", "5", (), 0),
        ("5", "-5", (), 0),
        ("-0", "0", (), 1),
    ],
    "integers are exact at any length": [
        ("12345678901234567", "12345678901234568", (), 0),
        ("12345678901234568", "12345678901234568", (), 1),
        (NINES, EIGHTS, (), 0),
        (NINES, NINES, (), 1),
        ("1" * 10_000, "1" * 10_000, (), 1),
        ("1" * 10_000, "1" * 9_999 + "2", (), 0),
        ("0.10000000000000000000001", "0.1", (), 0),
        ("1e999", "1e998", (), 0),
        ("9007199254740993", "9007199254740992", ("9007199254740992", "9007199254740993"), 0),
        ("12345678901234567", "12345678901234568", ("12345678901234567", "12345678901234568"), 0),
    ],
    "units": [
        *(
            (said, "5", (), 1)
            for said in (
                "5kg", "5 kg", "5m", "5x", "5°C", "$5", "5$", "€5", "5 €", "5%", "5 percent", "5mph", "5 km/h", "5km/h",
                "5公斤",
            )
        ),
        ("13m", "13", (), 1),
        ("-5°C", "-5", (), 1),
        ("-5℃", "-5", (), 1),
        ("5 kg", "5 kg", (), 1),
        ("5kg", "5 kg", (), 1),
        ("5 kilograms", "5 kg", (), 1),
        ("５㎏", "5 kg", (), 1),
        ("5 m", "5 kg", (), 0),
        ("5m", "5kg", (), 0),
        ("6 kg", "5 kg", (), 0),
        ("5 cats", "5 dogs", (), 0),
        ("50", "50%", (), 1),
        ("50%", "50%", (), 1),
        ("50 percent", "50%", (), 1),
        ("$50", "50%", (), 0),
        ("5", "$5", (), 1),
        ("5 dollars", "$5", (), 1),
        ("€5", "$5", (), 0),
        ("$6", "$5", (), 0),
        ("-5°C", "-5°F", (), 0),
        ("5", "5 kg", (), 2 / 3),  # the unit is half of what was wanted: 2·1/(1+2)
    ],
    "ordinals, dates, times, versions, ranges and codes are no numbers": [
        ("3rd", "3", (), 0),
        ("third", "3", (), 0),
        ("the third", "3rd", (), 1),
        ("3rd", "third", (), 1),
        ("3", "3rd", (), 0),
        ("the 3 in the 2nd row", "3", (), 1),
        ("10:30", "10", (), 0),
        ("10:30", "10:30", (), 1),
        ("10:30", "10:31", (), 0),
        ("2024-01-05", "2024", (), 0),
        ("2024-01-05", "2024-01-05", (), 1),
        ("2024–01–05", "2024-01-05", (), 1),
        ("1.2.3", "1.2", (), 0),
        ("1.2.3", "1.2.3", (), 1),
        ("555-1234", "555", (), 0),
        ("3-5", "3", (), 0),
        ("3-5", "4", (), 0),
        ("3–5", "3-5", (), 1),
        ("2x4", "2", (), 0),
        ("1990s", "1990", (), 0),
        ("5-year-old", "5-year-old", (), 1),
        ("1/0", "1", (), 0),
    ],
    "two numbers are none, and a bound is no number": [
        (said, "4", (), 0)
        for said in (
            "3 or 4", "4 or 5", "4 5", "4, 5", "4,5", "4/5", "4-5", "4 - 5", "4\n5", "4; 5", "4. 5", "4? 5",
            "4 (or 5)", "4 (5)", "4 and 5", "4 & 5", "between 3 and 5", "between 4 and 5", "3 to 5", "4 to 5",
            "3~5", "4…5", "4|5", "either 4 or 5", "four or five", "four five", "4 x 5", "4, maybe 5",
            "at least 4", "at most 4", "more than 4", "fewer than 4", "over 4", "up to 4", "4 or more",
            "4 or so", "4+", "<4", ">4", "≥4", "≥ 4", "±4", "not 4", "There aren't 4 dogs",
            "There are not 4 dogs", "There aren’t 4 dogs", "no 4", "anything but 4", "4 is wrong",
            "4 isn't right", "4; not 4", "maybe 4", "possibly four", "It could be 4", "1 2 3 4 5",
            "one two three four", "4 500", "4.5", "4 1/2", "The answer is 4. The answer is 5.", "4\u200b 5",
            "without 4", "neither 3 nor 4", "4 4 5",
        )
    ],
    "a number beside what is denied is stated": [
        ("4, not 5", "4", (), 1),
        ("not 5 but 4", "4", (), 1),
        ("There are 4 dogs, not 5", "5", (), 0),
        ("4 4", "4", (), 1),
        ("4. There are four dogs.", "4", (), 1),
        ("<4>", "4", (), 1),
        ("(4)", "4", (), 1),
        ("4 dogs under the table", "4", (), 1),
        ("I could see 4 dogs", "4", (), 1),
    ],
    "typography makes no difference": [
        ("“STOP”", "STOP", (), 1),
        ("'STOP'", "STOP", (), 1),
        ("‘STOP’", "STOP", (), 1),
        ("„Stop“", "STOP", (), 1),
        ("‹stop›", "STOP", (), 1),
        ("«rouge»", "rouge", (), 1),
        ("《红色》", "红色", (), 1),
        ("red…", "red", (), 1),
        ("red。", "red", (), 1),
        ("红色。", "红色", (), 1),
        ("红色！", "红色", (), 1),
        ("蓝色。", "红色", (), 0),
        ("ＲＥＤ", "red", (), 1),
        ("blue\u200b", "blue", (), 1),
        ("bl\u200due", "blue", (), 1),
        ("bl\u00adue", "blue", (), 1),
        ("\ufeffblue", "blue", (), 1),
        ("\u200fأزرق", "أزرق", (), 1),
        ("\u202ablue\u202c", "blue", (), 1),
        ("blue\ufe0f", "blue", (), 1),
        ("dark\u00a0blue", "dark blue", (), 1),
        ("dark\u3000blue", "dark blue", (), 1),
        ("dark\tblue", "dark blue", (), 1),
        ("cafe\u0301", "café", (), 1),
        ("café", "cafe\u0301", (), 1),
        ("cafe", "café", (), 0),
        ("２", "2", (), 1),
        ("٤", "4", (), 1),
        ("STRASSE", "Straße", (), 1),
        ("ﬁsh", "fish", (), 1),
        ("can't", "can’t", (), 1),
        ("T‑shirt", "t-shirt", (), 1),
        ("Coca‑Cola™", "Coca-Cola", (), 1),
        ("нет", "нет", (), 1),
        ("हरा", "हरा", (), 1),
        ("हरा", "हरी", (), 0),
        ("👍", "👎", (), 0),
        ("👍🏽", "👍🏽", (), 1),
    ],
    "free text equal but for case, articles and punctuation": [
        ("The silver car.", "silver car", (), 1),
        ("a red car", "red car", (), 1),
        ("Fallen leaves", "fallen leaves", (), 1),
        ("It is a red car.", "red car", (), 1),
        ("The answer is red.", "red", (), 1),
        ("**red**", "red", (), 1),
        ("red. Red.", "red", (), 1),
        ('{"answer": "red"}', "red", (), 1),
        ("black and white", "black and white", (), 1),
        ("white and black", "black and white", (), 1),
        ("red or blue", "red or blue", (), 1),
        ("not red", "not red", (), 1),
        ("no parking", "No Parking", (), 1),
        ("It says STOP", "STOP", (), 1),
        ("blue, not red", "blue", (), 1),
        ("not red but blue", "blue", (), 1),
        ("two dogs", "2 dogs", (), 1),
        ("R&B", "R and B", (), 1),
        ("U.S.A.", "USA", (), 1),
        ("B. blue", "B. blue", (), 1),
        ("B", "B. blue", (), 1),
        ("blue", "B. blue", (), 1),
        ("A", "B. blue", (), 0),
        ("A. blue", "B. blue", (), 0),
        ("A dog", "a dog", (), 1),
    ],
    "free text that shares words, by token F1": [
        ("the car", "The silver car.", (), 2 / 3),
        ("silver car parked", "silver car", (), 4 / 5),  # 2·2/(3+2)
        ("a silver car by a tree", "silver car", (), 2 / 3),  # 2·2/(4+2)
        ("car", "silver car", (), 2 / 3),
        ("a black cat", "cat", (), 2 / 3),
        ("black cat", "cat", (), 2 / 3),  # the colour describes the cat
        ("red mug", "red", (), 2 / 3),
        ("left side", "left", (), 2 / 3),
        ("a red mug beside a blue plate", "red mug", (), 2 / 5),  # 2 words in 5 are right, less than half
        ("a big silver car", "silver car", (), 2 / 3),  # 2 words in 3 are right; F1 would be 4/5
        ("a cat dog", "dog", (), 2 / 3),
        ("a cat dog", "cat", (), 1 / 3),  # what follows is the noun
        ("a man holding an umbrella", "man with an umbrella", (), 2 / 3),
        ("bus", "The silver car.", (), 0),
        ("", "The silver car.", (), 0),
        ("a man", "a man without a hat", (), 2 / 4),
        ("No smoking sign", "no smoking", (), 4 / 5),
    ],
    "free text earns nothing for what it denies, nor for one guess among others": [
        ("not red", "red", (), 0),
        ("isn't red", "red", (), 0),
        ("It isn’t red", "red", (), 0),
        ("anything but red", "red", (), 0),
        ("red or blue", "red", (), 0),
        ("blue or red", "red", (), 0),
        ("red/blue", "red", (), 0),
        ("either red or blue", "red", (), 0),
        ("red and blue", "red", (), 0),
        ("blue & red", "red", (), 0),
        ("red, blue", "red", (), 0),
        ("red\nblue", "red", (), 0),
        ("red; blue; green", "red", (), 0),
        ("left, right", "left", (), 0),
        ("true. false.", "false", (), 0),
        ("true. false.", "true", (), 0),
        ("red? blue", "red", (), 0),
        ("red (blue)", "red", (), 0),
        ("It's red. It's blue.", "red", (), 0),
        ("blue, not red", "red", (), 0),
        ("neither red nor blue", "red", (), 0),
        ("red", "not red", (), 0),
        ("not blue", "not red", (), 0),
        ("parking", "no parking", (), 0),
        ("a man wearing a hat", "a man without a hat", (), 0),
        ("The man is not wearing a hat", "man wearing a hat", (), 0),
        ("red, not red", "red", (), 0),
        ("three dogs", "two dogs and a cat", (), 0),
        ("no two dogs", "yes two dogs", (), 0),
        ("-", "+", (), 0),
        ("blue is wrong", "blue", (), 0),
        ("Is it blue? No.", "blue", (), 0),
        ("no es azul", "azul", (), 0),
        ("nicht blau", "blau", (), 0),
        ("pas bleu", "bleu", (), 0),
        ("ce n’est pas bleu", "bleu", (), 0),
        ("не синий", "синий", (), 0),
        ("não azul", "azul", (), 0),
        ("niet blauw", "blauw", (), 0),
        ("mavi değil", "mavi", (), 0),
    ],
    "two answers without a connective, each of which is the truth of one row": [
        (said, truth, (), 0)
        for said, truths in (
            ("left right", ("left", "right")), ("the left right", ("left", "right")), ("left-right", ("left", "right")),
            ("cat dog", ("cat", "dog")), ("apple banana", ("apple", "banana")), ("a cat a dog", ("cat", "dog")),
            ("hot dog ice cream", ("hot dog", "ice cream")), ("true * false", ("true", "false")),
            ("STOP GO", ("STOP", "GO")), ("10:30 11:30", ("10:30", "11:30")), ("blue''green", ("blue", "green")),
            ("red blue green yellow", ("red", "yellow")), ("red blue mug", ("red mug", "blue mug")),
            ("red mug blue mug", ("red mug", "blue mug")), ("tea and coffee cup", ("tea cup", "coffee cup")),
            ("on the left, on the right", ("on the left", "on the right")),
            ("man in red and blue shirt", ("man in red shirt", "man in blue shirt")),
            ("man in red, blue shirt", ("man in red shirt", "man in blue shirt")),
            ("sí, no", ("sí", "no")), ("oui, non", ("oui", "non")), ("oui ou non", ("oui", "non")),
            ("oui et non", ("oui", "non")), ("ja nein", ("ja", "nein")), ("rojo o azul", ("rojo", "azul")),
            ("rouge ou bleu", ("rouge", "bleu")), ("rouge et bleu", ("rouge", "bleu")),
        )
        for truth in truths
    ],
    "a verdict denies all of a list": [
        *(
            (said, "B", (), 0)
            for said in (
                "A, B and D are wrong", "B, C and D are incorrect.", "B, C or D would be wrong", "A, B, C are all incorrect",
                "not B, C or D", "neither B, C nor D", "A, B and C can be ruled out", "A, B and C aren't right",
                "Options A, B and C are wrong", "B, C and D: wrong",
                "B, C are wrong", "B, C: wrong",
            )
        ),
        ("3, 4 and 5 are wrong", "3", (), 0),
        *(("blue, green and yellow are wrong", "blue", choices, 0) for choices in ((), PAINTS)),
        ("blue, green and yellow aren't correct", "blue", PAINTS, 0),
        ("B. A, C and D are wrong.", "B", (), 1),
        ("B; A, C and D are wrong.", "B", (), 1),
        ("B is right, A and C are wrong", "B", (), 1),
        ("A is wrong, B", "B", (), 1),
        ("A is wrong, B is right", "B", (), 1),
        ("Not A, B.", "B", (), 1),
    ],
    "a verdict denies what it stands beside": [
        *(
            (said, "B", (), 0)
            for said in (
                "B (wrong)", "B: wrong", "B - incorrect", "B [false]", "B (not correct)", "B, that is wrong.",
                "B. That is incorrect.", "B? No.", "B? Nope", "B? Wrong.", "B (no)", "B: no", "incorrect: B",
                "Wrong answer: B", "the wrong answer is B", "I exclude B", "B has been eliminated", "B ❌", "B ✗", "B 🚫",
                "❌ B", "B: ❌", "B) ❌", "B – ❌", "B ❌ C ❌",
            )
        ),
        ("4? No.", "4", (), 0),
        ("4? No, it's not.", "4", (), 0),
        ("4 (incorrect)", "4", (), 0),
        ("4 ❌", "4", (), 0),
        *(
            (said, "blue", choices, 0)
            for said in (
                "Is it blue? No.", "blue: no", "wrong: blue", "blue (wrong)", "blue ❌", "blue is ruled out",
                "blue is excluded", "eliminate blue", "rule out blue", "far from blue", "opposite of blue",
                "impossible to be blue", "blue has been eliminated", "blue can be ruled out", "blue is out of the question",
            )
            for choices in ((), PAINTS)
        ),
        ("yes, nope", "yes", (), 0),
        ("Yes... actually no", "yes", (), 0),
        ("Yes, that is wrong", "yes", (), 0),
        ("yes, or maybe not", "yes", (), 0),
        ("yes ❌", "yes", (), 0),
        ("❌ No", "no", (), 1),
        ("No, that is wrong.", "no", (), 1),
        ("Is it A? No, it is B.", "B", (), 1),
        ("A: wrong\nB: right", "B", (), 1),
        ("A: wrong\nB: right", "A", (), 0),
        *((said, "A", (), 1) for said in ("A ✅ B ❌", "A ✔ B ✘", "✅ A\n❌ B", "B ❌\nA ✅")),
        *((said, "B", (), 0) for said in ("A ✅ B ❌", "A ✔ B ✘", "✅ A\n❌ B", "B ❌\nA ✅")),
        ("A ✔ B ✘", "red", COLOURS, 1),
        ("A ✔ B ✘", "blue", COLOURS, 0),
        ("red ❌ blue ✅", "blue", COLOURS, 1),
        ("red ❌ blue ✅", "red", COLOURS, 0),
        ("red ✅", "red", (), 1),
        ("B (A is wrong)", "B", (), 1),
        ("The correct answer is B, since A, C and D are wrong.", "B", (), 1),
        ("No, it's not.", "no", (), 1),
        *(
            (said, "B", (), 0)
            for said in ("I doubt it's B", "B is out", "B no", "not correct: B", "≠ B", "¬B", "~~B~~", "<s>B</s>", "\\st{B}")
        ),
        ("~~B~~ A", "A", (), 1),
        ("~~B~~ A", "B", (), 0),
        ("~~blue~~ red", "blue", COLOURS, 0),
        ("~~4~~ 5", "5", (), 1),
    ],
    "signs between letters join them": [
        (said, truth, choices, 0)
        for said in (
            "A + B", "A ∨ B", "A ∪ B", "A ⊕ B", "A ≠ B", "A 👉 B", "A × B", "A ∧ B", "any of A, B", "all of A, B",
            "I ∨ B ∨ A",
        )
        for truth, choices in (("A", ()), ("B", ()), ("blue", COLOURS), ("red", COLOURS))
    ],
    "an explanation may name another option, but not state it": [
        ("The answer is B. The red mug is on the table.", "blue", COLOURS, 1),
        ("The answer is B because the red mug is on the table.", "blue", COLOURS, 1),
        ("The answer is B because A is red.", "blue", COLOURS, 0),  # A is stated to be red, which it is; left unread
        ("B\n\nThe red mug is on the table.", "blue", COLOURS, 1),
        ("blue\n\nExplanation: The other mug is red.", "blue", COLOURS, 1),
        ("The answer is B. The red mug is on the table.", "red", COLOURS, 0),
        ("The answer is B. The mug is red.", "blue", COLOURS, 0),
        ("The answer is B. The red mug is also correct.", "blue", COLOURS, 0),
        ("The answer is B. The red one is it.", "blue", COLOURS, 0),
        ("B. The red mug.", "blue", COLOURS, 0),
        ("B or the red mug is it", "blue", COLOURS, 0),
    ],
    "parts of a total and the numbers of a list's lines are not stated": [
        ("3 + 1 = 4", "4", (), 1),
        ("3 + 1 = 5", "5", (), 0),
        ("4 + 5", "4", (), 0),
        ("There are 2 mugs, one red and one blue.", "2", (), 1),
        ("There are 5 animals: 3 dogs and 2 cats.", "5", (), 1),
        ("There are 5 animals: 3 dogs and 2 cats.", "3", (), 0),
        ("3, 1, 2", "3", (), 0),
        ("The answer is 2, one on the left and one on the right.", "2", (), 1),
        ("1. First, I look.\n2. Second, I count.\nAnswer: 2", "2", (), 1),
        ("1. a dog\n2. a dog\n3. a dog\nSo there are **3** dogs.", "3", (), 1),
        ("2, one", "2", (), 0),
        ("2 or one red", "2", (), 0),
    ],
    "other languages and wordings": [
        *(
            (said, "B", (), 1)
            for said in (
                "La respuesta es B", "La respuesta correcta es (B).", "Die Antwort ist B", "Die richtige Antwort ist B",
                "La réponse est B", "A resposta é B", "La risposta è B", "Ответ: B", "答えはB", "正解はBです。", "正解: B",
                "정답은 B입니다", "故选B", "故选：B", "Of the four options, B is the best match.", "B rather than A",
                "B instead of A", "Point B is closer to the camera.",
            )
        ),
        ("A rather than B", "A", (), 1),
        ("A rather than B", "B", (), 0),
        ("Point B is not closer.", "B", (), 0),
        ("四", "4", (), 1),
        ("杯子是红色的。", "红色", ("红色", "蓝色"), 1),
        ("是红色", "红色", ("红色", "蓝色"), 1),
        ("不是红色", "红色", ("红色", "蓝色"), 0),
        ("是红色或蓝色", "红色", ("红色", "蓝色"), 0),
        ("The answer to the question is yes.", "yes", (), 1),
        ("The answer to the question is yes.", "no", (), 0),
        ("Nope", "no", (), 1),
        ("Nope, it is not.", "no", (), 1),
        ("Yep", "yes", (), 1),
        ("Yeah", "yes", (), 1),
        ("Yeah, no", "yes", (), 0),
        ("Yes. No dogs are on the bed, only a cat.", "yes", (), 1),
        ("5 inches", "5 in", (), 1),
        ("5 kmh", "5 km/h", (), 1),
        ("£5", "5 pounds", (), 1),
        ("5 pounds", "£5", (), 1),
        ("5 pounds", "5 kg", (), 0),
        ("B", "table", ("1) chair", "2) table"), 1),
        ("A", "table", ("1) chair", "2) table"), 0),
    ],
}  # fmt: skip


ALL_ROWS = [row for rows in ROWS.values() for row in rows]


@pytest.mark.parametrize(
    ("answer", "truth", "choices", "score"),
    [
        pytest.param(*row, id=f"{group[:30]}: {row[0]!a:.40} for {row[1]!a:.20}")
        for group, rows in ROWS.items()
        for row in rows
    ],
)
def test_rules(answer: str, truth: str, choices: Sequence[str], score: float) -> None:
    verdict = judge(answer, truth, choices)
    assert verdict.score == pytest.approx(score), verdict
    assert verdict.reason


@pytest.mark.parametrize(
    ("answer", "truth", "choices", "rule"),
    [
        ("The answer is B", "B", (), "choice"),
        ("B", "blue", COLOURS, "choice"),
        ("B", "B. blue", (), "choice"),
        ("Yes, it is.", "yes", (), "yes_no"),
        ("yes", "yes", YES_NO, "choice"),
        ("four", "4", (), "number"),
        ("50", "50%", (), "number"),
        ("5kg", "5 kg", (), "exact"),
        ("10:30", "10:30", (), "exact"),
        ("the car", "silver car", (), "token_f1"),
        ("not red", "red", (), "token_f1"),
        ("a fish", "a fish", ANIMALS, "exact"),  # a truth outside its choices is judged as open
    ],
)
def test_the_right_answer_decides_which_rule_applies(answer: str, truth: str, choices: Sequence[str], rule: str) -> None:
    assert judge(answer, truth, choices).rule == rule


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  The  Dog's, 3.5 kg -- really! ", "dogs 3.5 kg really"),
        ("The “Twenty-one” Dogs!", "21 dogs"),
        ("1,234.50 kilograms", "1234.5 kg"),
        ("$5", "5 $"),
        ("the third", "3rd"),
        ("ＣＡＦＥ\u0301\u200b", "café"),
        ("A", "a"),
        ("+", "+"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


# What must hold for any text. `words` are those that rules look for, so that most samples mean something to them.
WORDS = [
    *listed(
        "red blue dark not isn't no yes none or and either neither but except maybe the a A B C D I is it answer option"
    ),
    *listed("1 2 3 4 5 two three hundred and half kg % $ 1,2 1.5 3-5 ½ 2nd ２ Ｂ é е 红色"),
    *listed(", . ; : ? ! / - ( ) [ ] { } < > * ** \\boxed{ \\text{ $$ <b> </b> # + = “ ” … — −"),
    *("\u200b", "\ufeff", "\u0301", "\n"),
]
phrases = st.lists(st.sampled_from(WORDS), max_size=12)
texts = st.text(max_size=40) | phrases.map(" ".join) | phrases.map("".join)

CLOSED: list[tuple[str, ...]] = [
    COLOURS,
    SHADES,
    LABELLED,
    COUNTS,
    YES_NO,
    ANIMALS,
    ("A", "B", "C"),
    ("O", "X"),
    ("in front", "behind"),
    ("5 kg", "10 kg"),
    ("left", "right", "in the middle"),
    ("红色", "蓝色"),
    ("sure", "not sure"),
    ("café", "bar"),
    ("1. red", "2. blue"),
    ("C++", "C#", "C"),
]


@given(texts)
def test_a_truth_is_right(truth: str) -> None:
    assert judge(truth, truth).score == 1


@given(st.lists(texts, min_size=1, max_size=5), st.data())
def test_a_choice_is_right(choices: list[str], data: st.DataObject) -> None:
    truth = data.draw(st.sampled_from(choices))
    assert judge(truth, truth, choices).score == 1


@pytest.mark.parametrize("choices", CLOSED, ids=str)
def test_every_way_of_writing_an_option_states_it(choices: tuple[str, ...]) -> None:
    bare = {"A. red": "red", "B. blue": "blue", "C. dark red": "dark red", "1. red": "red", "2. blue": "blue"}
    single = all(len(choice) == 1 for choice in choices) and not choices[0].isdigit()
    for index, choice in enumerate(choices):
        letter = choice if single else str(index + 1) if choice[0].isdigit() and choice in bare else "ABCDE"[index]
        if choices == ("C++", "C#", "C"):
            letter = choice  # "C" is the third option's text, not the letter of one
        text = bare.get(choice, choice)
        said = ("{}", "**{}**", "“{}”", "({})", "{}.", "Answer: {}", "The answer is {}.", "\\boxed{{{}}}")
        ways = {choice, *(way.format(named) for way in said for named in (text, letter))}
        if letter != text:
            ways |= {
                f"{letter}. {text}",
                f"({letter}) {text}",
                f"{letter}) {text}",
                f"{letter}: {text}",
                f"{letter} - {text}",
            }
        for way in sorted(ways):
            for truth in {choice, f"({letter})"}:
                assert judge(way, truth, choices).score == 1, (way, truth)
                for other in choices:
                    assert other == choice or judge(way, other, choices).score == 0, (way, other)


CONNECTIVES = (
    "{} or {}", "{} and {}", "{}, {}", "{}; {}", "{}/{}", "{} / {}", "{}? {}", "{}. {}", "{}! {}", "{}\n{}", "{}\n\n{}",
    "{} & {}", "{}|{}", "either {} or {}", "both {} and {}", "neither {} nor {}", "{} (or {})", "{} (or maybe {})",
    "{}, or {}", "{}, maybe {}", "{} ({})", "{} or maybe {}", "The answer is {} or {}.",
    "The answer is {}. The answer is {}.",
    "It is {}. It is {}.", "\\boxed{{{}}} \\boxed{{{}}}", "Answer: {}\nAnswer: {}", "({}) or ({})",
    "({}), ({})", "[{}] [{}]",
    "{} ∨ {}", "{} ⊕ {}", "{} ≠ {}", "{} 👉 {}", "any of {}, {}", "{} + {}",
    "{}, {}, {}", "{}\u200b or {}", "{}、{}", "{}；{}", "not {}, not {}", "not {} or {}",
)  # fmt: skip
# Without choices these words may be one answer: "red vs blue" on a sign.
LOOSE_CONNECTIVES = ("{} … {}", "{} — {}", "{} → {}", "**{}** **{}**", "{}\u3000{}", "{} vs {}", "{} - {}")


def labels_of(choices: tuple[str, ...]) -> tuple[str, ...]:
    """How options may be named briefly: by letter, or by number where they bear numbers."""
    if choices[0] == "1. red":
        return ("1", "2")
    return choices if all(len(choice) == 1 and choice.isalpha() for choice in choices) else tuple("ABCDE"[: len(choices)])


@pytest.mark.parametrize("choices", [c for c in CLOSED if c[0] not in ("C++", "sure")], ids=str)
@pytest.mark.parametrize("template", CONNECTIVES + LOOSE_CONNECTIVES)
def test_two_options_joined_earn_nothing(choices: tuple[str, ...], template: str) -> None:
    names = labels_of(choices)
    for one, other in permutations(range(len(choices)), 2):
        for pair in product((choices[one], names[one]), (choices[other], names[other])):
            side_by_side = template in ("**{}** **{}**", "{}\u3000{}")
            if side_by_side and pair[0] == "A" and pair[1] not in names:
                continue  # "A dog" is an article and a dog
            if side_by_side and pair == ("no", "A"):
                continue  # denies A, which is yes
            said = template.format(*pair, pair[0])
            assert judge(said, choices[one], choices).score == 0, said
            assert judge(said, choices[other], choices).score == 0, said


TRUTHS = (("4", "5"), ("yes", "no"), ("B", "D"), ("two", "three"))


@pytest.mark.parametrize(
    ("template", "one", "other"),
    [(template, *pair) for template in CONNECTIVES for pair in (*TRUTHS, ("red", "blue"), ("café", "bar"))]
    + [(template, *pair) for template in LOOSE_CONNECTIVES for pair in TRUTHS],
)
def test_two_answers_joined_earn_nothing_without_choices(template: str, one: str, other: str) -> None:
    for pair in ((one, other), (other, one)):
        said = template.format(*pair, pair[0])
        assert judge(said, one).score == 0, said
        assert judge(said, other).score == 0, said


@pytest.mark.parametrize(
    "template",
    ["not {}", "Not {}.", "It isn't {}", "it is not {}", "never {}", "anything but {}",
    "everything except {}", "neither {}", "not: {}",
     "not ({})", "The answer is not {}", "The answer isn’t {}.", "{} is wrong", "{} is not correct",
     "{} isn’t right", "maybe {}",
     "{} or something", "cannot be {}", "something rather than {}", "something other than {}",
     "{} ❌", "❌ {}", "{}: ✗", "{} (wrong)", "{}: wrong", "{} - incorrect", "wrong: {}", "Wrong answer: {}",
     "{} is ruled out", "I exclude {}", "the opposite of {}", "{}? Wrong."],
)  # fmt: skip
def test_what_is_denied_or_only_possible_earns_nothing(template: str) -> None:
    for choices in [c for c in CLOSED if c[0] != "sure"]:
        for choice, name in zip(choices, labels_of(choices), strict=True):
            if template == "❌ {}" and choice == "no":
                continue  # "❌ No, it is not" agrees
            assert judge(template.format(choice), choice, choices).score == 0, (choice, choices)
            if choices[0] != "C++":
                assert judge(template.format(name), choice, choices).score == 0, (name, choices)
    for truth in ("B", "4", "yes", "no", "12.5"):
        assert (template, truth) == ("❌ {}", "no") or judge(template.format(truth), truth).score == 0, truth


DENIED_LISTS = (
    "{} and {} are wrong", "{}, {} and {} are incorrect.", "{} or {} would be wrong", "{}, {} and {} are not correct",
    "{} and {} can be ruled out", "{}, {}, {} are all wrong", "{}, {} and {}: wrong", "not {}, {} or {}",
    "neither {}, {} nor {}", "{} ❌ {} ❌", "❌ {}\n❌ {}",
)  # fmt: skip


@pytest.mark.parametrize("template", DENIED_LISTS)
@pytest.mark.parametrize(
    ("names", "choices"),
    [
        (("B", "C", "D"), ()),
        (("3", "4", "5"), ()),
        (("cat", "dog", "horse"), ()),
        (("blue", "green", "yellow"), PAINTS),
        (("B", "C", "D"), PAINTS),
        (("A", "C", "D"), PAINTS),
    ],
)
def test_a_list_that_is_denied_earns_nothing(template: str, names: tuple[str, ...], choices: Sequence[str]) -> None:
    for order in permutations(names):
        said = template.format(*order)
        for truth in names:
            assert judge(said, truth, choices).score == 0, (said, truth)


def test_a_verdict_beside_each_option_states_the_right_one() -> None:
    for right, wrong in (("✅", "❌"), ("✔", "✘"), ("✓", "✗"), ("👍", "👎")):
        for template in ("{0} {2} {1} {3}", "{1} {3} {0} {2}", "{0} {2}\n{1} {3}", "{2} {0}\n{3} {1}", "{0}: {2}\n{1}: {3}"):
            for pair, choices in ((("A", "B"), COLOURS), (("B", "A"), ()), (("red", "blue"), COLOURS), (("4", "5"), ())):
                said = template.format(*pair, right, wrong)
                assert judge(said, pair[0], choices).score == 1, said
                assert judge(said, pair[1], choices).score == 0, said


@pytest.mark.parametrize("joint", [" ", "-", " - ", " * ", "/", " | ", ", ", "\n", " and ", " the "])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "dog"),
        ("left", "right"),
        ("stop", "go"),
        ("10:30", "11:30"),
        ("red mug", "blue mug"),
        ("ice cream", "hot dog"),
    ],
)
def test_naming_two_answers_is_worth_no_more_than_a_guess(joint: str, one: str, other: str) -> None:
    assert judge(one + joint + other, one).score == 0
    assert judge(one + joint + other, other).score == 0


@given(texts, st.sampled_from(CLOSED))
def test_no_answer_is_right_for_two_options(answer: str, choices: tuple[str, ...]) -> None:
    assert sum(judge(answer, truth, choices).score for truth in choices) <= 1


@given(
    texts, st.sampled_from([("yes", "no"), ("4", "5", "45", "4.5"), ("A", "B", "C", "I"), ("-5", "5"), ("1/2", "1", "2")])
)
def test_no_answer_is_right_for_two_truths(answer: str, truths: tuple[str, ...]) -> None:
    assert sum(judge(answer, truth).score for truth in truths) <= 1


@given(texts, texts, st.lists(texts, max_size=4))
def test_no_text_raises_and_scores_stay_in_range(answer: str, truth: str, choices: list[str]) -> None:
    assert 0 <= judge(answer, truth, choices).score <= 1


INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202c\u2066\u2069\u034f\ufe0f\U000e0041\x00\x07"
SHAPES = {
    "'": "‘’ʼ＇", '"': "“”„«»", "-": "‐‑–－", ",": "，", "(": "（", ")": "）", ".": "．", "?": "？", ":": "：",
    " ": "\u00a0\u2009\u3000",
}  # fmt: skip


def disguised(text: str, rng: random.Random) -> str:
    """The same text to any reader: other widths, quotation marks, dashes and blanks, composition, invisible characters."""
    characters = []
    for character in text:
        if rng.random() < 0.3 and character in SHAPES:
            character = rng.choice(SHAPES[character])
        elif rng.random() < 0.2 and character.isalnum() and character.isascii():
            character = chr(ord(character) + 0xFEE0)
        characters.append(character)
    changed = unicodedata.normalize(rng.choice(["NFC", "NFD"]), "".join(characters))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(changed) + 1)
        changed = changed[:at] + rng.choice(INVISIBLE) + changed[at:]
    return changed


@settings(max_examples=300)
@given(st.sampled_from(ALL_ROWS), st.randoms(use_true_random=False))
def test_typography_changes_no_verdict(row: Row, rng: random.Random) -> None:
    answer, truth, choices, score = row
    if "\\" in answer or "<" in answer or "$" in answer:
        return  # markup is ASCII
    assert judge(disguised(answer, rng), truth, choices).score == pytest.approx(score)
    assert judge(answer, disguised(truth, rng), choices).score == pytest.approx(score)


def mutated(rng: random.Random) -> str:
    """An answer of the table, or two of them, with pieces added, doubled, moved and cut."""
    answer = rng.choice(ALL_ROWS)[0][:200]
    for _ in range(rng.randrange(1, 5)):
        at, to = sorted(rng.randrange(len(answer) + 1) for _ in range(2))
        match rng.randrange(6):
            case 0:
                answer = answer[:at] + rng.choice(WORDS) + answer[at:]
            case 1:
                answer = f"{answer[:at]} {rng.choice(WORDS)} {answer[at:]}"
            case 2:
                answer = answer[:at] + answer[to:]
            case 3:
                answer = answer[:at] + 2 * answer[at:to] + answer[to:]
            case 4:
                answer = answer + rng.choice((" or ", "\n", ", ", " ", "/", ". ")) + rng.choice(ALL_ROWS)[0][:200]
            case _:
                answer = (
                    answer[:at]
                    + chr(rng.choice((rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x11000))))
                    + answer[at:]
                )
    return answer


def fuzz(count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        answer = mutated(rng)
        choices = rng.choice(CLOSED)
        verdicts = [judge(answer, truth, choices) for truth in choices]
        assert sum(verdict.score for verdict in verdicts) <= 1, (answer, choices, verdicts)
        assert all(
            judge(answer + "\u200b", truth, choices).score == verdict.score
            for truth, verdict in zip(choices, verdicts, strict=True)
        )
        truth = rng.choice(ALL_ROWS)[1][:200]
        assert 0 <= judge(answer, truth).score <= 1, (answer, truth)
        assert judge(answer, answer).score == 1, answer


def test_mutations_of_answers() -> None:
    fuzz(2_000, seed=1)


@pytest.mark.slow
def test_many_mutations_of_answers() -> None:
    fuzz(20_000, seed=2)


PIECES = (
    "red ", "not ", "A ", "4, ", "1 234 ", "1,", "(", "((B))", "\\frac{", "\\boxed{B} ", "$B ", "<b", "<b>", "a.", "a'",
    "yes or ", "é", "no one ", "a b ",
    "a/", "(a", "<a", "i(", "wrong ", "B? No. ", "is wrong, ", "a, ", "a and ", "A ❌ ", "that is wrong. ", "not a, ",
    "no: ", "是", "~~B", "<s>", "B no ", "is out ",
)  # fmt: skip


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs, passes of loops included."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(("truth", "choices"), [("B. red", ()), ("red", SHADES), ("4", ()), ("yes", ())])
def test_work_grows_with_the_text_alone(piece: str, truth: str, choices: Sequence[str]) -> None:
    short, long = (
        lines_run(lambda length=length: judge((piece * length)[:length], truth, choices)) for length in (200, 2_000)
    )
    assert long < 12 * short  # ten times the text; quadratic work would be a hundred times


@pytest.mark.parametrize("piece", PIECES)
def test_patterns_do_not_backtrack_over_the_text(piece: str) -> None:
    def seconds(length: int) -> float:
        text, best = (piece * length)[:length], 9e9
        for _ in range(5):
            start = time.process_time()
            tokens(canonical(text))
            best = min(best, time.process_time() - start)
        return best

    assert seconds(20_000) < 50 * max(seconds(2_000), 0.001)  # ten times the text


def test_an_answer_as_long_as_a_book_states_nothing_unless_it_is_the_truth() -> None:
    assert judge("red " * LONGEST, "red", COLOURS).score == 0
    assert judge("4" + " " * 1_000_000, "4").score == 1
    assert judge("1" * 1_000_000, "1" * 1_000_000).score == 1
    assert judge("1" * 1_000_000, "1" * 999_999 + "2").score == 0
