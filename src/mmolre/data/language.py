"""Which language a transcript is in, by its letters and its commonest words. Coarse on purpose: it only warns."""

import re
import unicodedata
from collections import Counter

NAMES = {
    "ar": "Arabic",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "zh": "Chinese",
}

_COMMON = {
    "de": "der die das und ist nicht ich wir sie ein eine mit auf für auch es zu den dass war wie aber sich haben",
    "en": "the and is are of to in it that this was you i a for on with not have be they my but what so we",
    "es": "el la los las y es que de en un una por con no se lo para pero como muy está esto yo su",
    "fr": "le la les et est que de un une dans pas je il elle nous vous pour avec sur ce qui mais très des du",
    "it": "il la che di e è un una non per con sono mi si ma come questo molto anche del della i gli ho",
    "nl": "de het een en is niet ik dat van op te zijn met voor maar wij ook er aan die was naar heb je",
    "pl": "i w nie to się na że jest z do jak ale o co tak ja za dla są tego był czy",
    "pt": "o a os as e é que de em um uma por com não se para mas como muito isto eu do da você",
    "sv": "och det är att en som jag inte på för med har den av ett men vi till om var så du",
    "tr": "ve bir bu da de için çok ben ne değil ama o gibi var mı daha kadar sen biz",
}
_LISTS = {code: frozenset(words.split()) for code, words in _COMMON.items()}
_SCRIPTS = {
    "ARABIC": "ar",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "DEVANAGARI": "hi",
    "GREEK": "el",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "THAI": "th",
}
_FEWEST_WORDS = 20


def detect(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; ``None`` where it is too short to say, or none that is known here."""
    letters = [char for char in text[:20_000] if char.isalpha()]
    scripts = Counter(unicodedata.name(char, "?").split()[0] for char in letters)
    if not letters:
        return None
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * len(letters):
        return "ja"
    main, count = scripts.most_common(1)[0]
    if main != "LATIN":
        return _SCRIPTS.get(main) if count > 0.5 * len(letters) else None
    words = re.findall(r"[^\W\d_]+", text[:20_000].lower())
    if len(words) < _FEWEST_WORDS:
        return None
    scores = {code: sum(word in common for word in words) / len(words) for code, common in _LISTS.items()}
    best = max(scores, key=scores.__getitem__)
    second = max(score for code, score in scores.items() if code != best)
    return best if scores[best] >= 0.15 and scores[best] >= 1.2 * second else None


def name(code: str | None) -> str:
    """For people."""
    return "unknown" if code is None else NAMES.get(code, code)
