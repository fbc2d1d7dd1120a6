"""The tokens of a text as people read them, and the words that they are pieces of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

_CONTEXT = 8  # tokens before one that its text may depend on
_MARKS = "▁Ġ"  # how vocabularies write a blank
_PART = "\ufffd"  # what a part of a letter is decoded to


class Pieces(NamedTuple):
    """Ids, what each is of the text, and which of them are no text but signs of the tokenizer."""

    ids: list[int]
    texts: list[str]
    special: list[bool]

    def then(self, more: Pieces) -> Pieces:
        return Pieces(self.ids + more.ids, self.texts + more.texts, self.special + more.special)


def special_ids(tokenizer: Any) -> set[int]:
    """The tokenizer's signs. An unknown word is a word, unless the same id (GPT-2's) is a sign, too."""
    found = set(tokenizer.all_special_ids)
    found |= {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    roles = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep", "mask")}
    return found - ({tokenizer.unk_token_id} - set(roles.values()))


def tokenized(tokenizer: Any, text: str, signs: bool) -> Pieces:
    """A text as ids, with or without the signs that the tokenizer adds around it.

    Put one behind the other the texts of its tokens are the text again: a blank belongs to the token behind it.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    made = tokenizer(text, add_special_tokens=signs, return_offsets_mapping=fast)
    ids = [int(number) for number in made["input_ids"]]
    if not fast:
        return decoded(tokenizer, ids, [])
    known = special_ids(tokenizer)
    special, texts, at = [number in known for number in ids], [], 0
    names = tokenizer.convert_ids_to_tokens(ids)
    for name, is_special, (start, end) in zip(names, special, made["offset_mapping"]):
        if start == end:
            texts.append(name if is_special else "")
        elif not name.strip(_MARKS) and text[start:end].strip():  # a blank before the text, which the text has not
            texts.append("")
        else:
            texts.append(text[at:end] if end > at else "")
            at = max(at, end)
    if texts and at < len(text):  # blanks at the end that no token holds
        last = max((i for i, one in enumerate(special) if not one), default=len(texts) - 1)
        texts[last] += text[at:]
    return Pieces(ids, texts, special)


def decoded(tokenizer: Any, ids: Sequence[int], before: Sequence[int]) -> Pieces:
    """What each of some ids adds to the text, after those before: a blank that a text begins with is kept there."""
    known = special_ids(tokenizer)
    special, texts = [number in known for number in ids], []
    whole = [number for number in before if number not in known][-_CONTEXT:]

    def text(some: Sequence[int]) -> str:
        found = tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(found).rstrip(_PART)  # a letter of several tokens stands at its last

    for number, is_special in zip(ids, special):
        if is_special:
            texts.append(str(tokenizer.convert_ids_to_tokens(int(number))))
            whole = []
            continue
        around = whole[-_CONTEXT:]
        texts.append(text([*around, number])[len(text(around)) :])
        whole.append(number)
    return Pieces([int(number) for number in ids], _marked(texts), special)


def _marked(texts: list[str]) -> list[str]:
    """Parts of letters that were never completed stand at their own tokens."""
    for i in reversed(range(1, len(texts))):
        if texts[i].startswith(_PART) and not texts[i - 1]:
            texts[i - 1], texts[i] = texts[i][0], texts[i][1:]
    for i in reversed(range(len(texts))):
        if texts[i]:
            break
        texts[i] = _PART
    return texts


def words_of(texts: Sequence[str], alone: Sequence[bool], ends: Collection[int]) -> list[int]:
    """The word of each token: from one blank to the next. Those that are `alone` are words of their own, and none goes on at
    a place in `ends`."""
    words: list[int] = []
    for i, text in enumerate(texts):
        before = texts[i - 1] if i else ""
        begins = not i or alone[i] or alone[i - 1] or i in ends or text[:1].isspace()
        begins = begins or (before[-1:].isspace() and bool(before.strip()))
        words.append((words[-1] + 1 if words else 0) if begins else words[-1])
    return words
