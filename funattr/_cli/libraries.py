"""Models of torchvision, timm and transformers, each with the preprocessing that belongs to its weights."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .pieces import decoded
from .source import Source, Text
from .words import answered, choices, listed, mistake, one_line

_LIBRARIES = ("torchvision", "timm", "transformers")


def by_name(name: str, options: argparse.Namespace) -> Source:
    library, _, rest = name.partition("/")
    if library in _LIBRARIES and rest:
        return _FROM[library](rest, options)
    if name.startswith(("hf-hub:", "hf_hub:")):
        return _from_timm(name, options)
    known: list[str] = []
    for each, names in (("torchvision", _torchvision_names), ("timm", _timm_names)):
        found = names()
        if name.partition(".")[0].lower() in found:
            return _FROM[each](name, options)
        known += found
    file = Path(name.removesuffix(".py") + ".py")
    if file.is_file():
        where = os.path.relpath(file.with_suffix(""))
        there, module = ("", where) if not where.startswith("..") else (f", in the folder {file.parent}", file.stem)
        module = module.replace(os.sep, ".")
        raise mistake(
            f"--model {name} is a file of code: write {module}:NAME{there}, where NAME is what makes the model in it."
        )
    if "/" in name:
        if os.sep == "/" and name.startswith(("/", ".")):
            raise mistake(f"there is no folder {name!r}.")
        return from_transformers(name, options)
    if Path(name).is_file():
        raise mistake(f"--model {name} is a file, and no model: name one, as my_net:build does; weights go to --checkpoint.")
    module, _, made = name.rpartition(".")
    if module and Path(*module.split(".")).with_suffix(".py").is_file():
        raise mistake(f"there is no model {name!r}: {module} is a file of code, of which --model {module}:{made} takes a name.")
    where = " or ".join(each for each in _LIBRARIES[:2] if _installed(each)) or "torchvision or timm (neither is installed)"
    close = choices(name, known) if known else ": name your own as package.module:factory, one of transformers by its folder."
    raise mistake(f"there is no model {name!r} in {where}{close}")


def is_known(name: str) -> bool:
    """Whether a library has a model of this name, or says that it has."""
    library, _, rest = name.partition("/")
    if (library in _LIBRARIES and rest) or name.startswith(("hf-hub:", "hf_hub:")):
        return True
    return any(name.partition(".")[0].lower() in names() for names in (_torchvision_names, _timm_names))


def _installed(library: str) -> Any:
    """The library, or None where it is not installed."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name == library:
            return None
        raise mistake(f"{library} is installed, and cannot be imported: {one_line(error)}") from error
    except Exception as error:
        raise mistake(f"{library} is installed, and cannot be imported: {one_line(error)}") from error


def needed(library: str, part: str) -> Any:
    if _installed(library) is None:
        raise ImportError(f"models of {library} need it: pip install {library}")
    return importlib.import_module(part)


def _torchvision_names() -> list[str]:
    return list(needed("torchvision", "torchvision.models").list_models()) if _installed("torchvision") else []


def _timm_names() -> list[str]:
    timm = _installed("timm")
    return list(timm.list_models()) if timm else []


def _from_torchvision(name: str, options: argparse.Namespace) -> Source:
    models = needed("torchvision", "torchvision.models")
    if name.lower() not in models.list_models():
        raise mistake(f"torchvision has no model {name!r}{choices(name, models.list_models())}")
    weights = None
    if options.weights != "none" and (options.weights is not None or options.checkpoint is None):
        known = models.get_model_weights(name)
        wanted = (options.weights or "DEFAULT").removeprefix(f"{known.__name__}.")
        if wanted not in known.__members__:
            raise mistake(f"torchvision's {name} has no weights {wanted!r}{choices(wanted, list(known.__members__))}")
        weights = known[wanted]
    with answered(f"torchvision did not make {name!r}"):
        model = models.get_model(name, weights=None if options.checkpoint else weights)
    if weights is None:
        title = f"torchvision's {name}" + ("" if options.checkpoint else ", random weights")
        return Source(model, title, trained_with=_trained_with(models.get_model_weights(name)) if options.checkpoint else "")
    preset = weights.transforms()
    mean, std = (getattr(preset, what, getattr(preset, f"_{what}", None)) for what in ("mean", "std"))
    title = f"torchvision's {name}" + ("" if options.checkpoint else f", {weights}")
    return Source(model, title, preset, None, f"by the transforms of {weights}", mean, std, 3, weights.meta.get("categories"))


def _trained_with(known: Any) -> str:
    """The options that would normalise as torchvision's own weights want it."""
    default = getattr(known, "DEFAULT", None)
    preset = None if default is None else default.transforms()
    values = [(what, getattr(preset, what, None)) for what in ("mean", "std")]
    return " ".join(f"--{what} {','.join(f'{v:g}' for v in given)}" for what, given in values if given)


def _from_timm(name: str, options: argparse.Namespace) -> Source:
    timm = needed("timm", "timm")
    data = importlib.import_module("timm.data")
    hub = name.startswith(("hf-hub:", "hf_hub:"))
    if not hub and not timm.is_model(name):
        raise mistake(f"timm has no model {name!r}{choices(name, list(timm.list_models()))}")
    if hub and options.weights not in (None, "none"):
        raise mistake("a model of the hub has one set of weights: leave --weights out.")
    full = name if options.weights in (None, "none") or hub else f"{name.partition('.')[0]}.{options.weights}"
    pretrained = options.weights != "none" and options.checkpoint is None
    with answered(f"timm did not make {full!r}"):
        model = timm.create_model(full, pretrained=pretrained)
        config = data.resolve_model_data_config(model)
        transform = data.create_transform(**config, is_training=False)
    title = f"timm's {full}" + ("" if pretrained or options.checkpoint else ", random weights")
    channels = config["input_size"][0]
    how = "by timm's transform of its data config"
    return Source(model, title, transform, None, how, config["mean"], config["std"], channels, _timm_classes(data, model))


def _timm_classes(data: Any, model: Any) -> Sequence[str] | None:
    config = getattr(model, "pretrained_cfg", {})
    names = config.get("label_names")
    if names:
        described = config.get("label_descriptions") or {}
        return [described.get(name, name) for name in names]
    subset = data.infer_imagenet_subset(model)
    return list(data.ImageNetInfo(subset).label_descriptions()) if subset else None


def from_transformers(name: str, options: argparse.Namespace) -> Source:
    transformers = needed("transformers", "transformers")
    if options.weights is not None:
        raise mistake("--weights chooses among those of torchvision and timm: a model of transformers has one set.")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise mistake(f"the folder {name!r} has no config.json: name one that save_pretrained of transformers wrote.")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with answered(f"transformers cannot load {name!r}"):
        config = transformers.AutoConfig.from_pretrained(name)
        kind = _kind(transformers, config, name)
        auto = (
            transformers.AutoModelForImageClassification if kind == "image" else transformers.AutoModelForSequenceClassification
        )
        model, told = auto.from_pretrained(name, output_loading_info=True)
        part = (transformers.AutoImageProcessor if kind == "image" else transformers.AutoTokenizer).from_pretrained(name)
    missing = sorted(told["missing_keys"])
    if missing and options.checkpoint is None:
        raise mistake(f"{name!r} is no trained classifier, it lacks {listed(missing, 4)}: fine-tune it, or give --checkpoint.")
    model = model.float()  # gaps of a complete method in bfloat16 are rounding
    classes = [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    title = f"{name} ({type(model).__name__})"
    how = "by its tokenizer" if kind == "text" else "by its image processor"
    if kind == "text":
        return Source(model, title, None, _tokenized(part), how, classes=classes, tokenizer=part)
    mean, std = (
        getattr(part, what, None) if getattr(part, "do_normalize", False) else None for what in ("image_mean", "image_std")
    )
    return Source(model, title, lambda i: part(i, return_tensors="pt")["pixel_values"], None, how, mean, std, 3, classes)


def _kind(transformers: Any, config: Any, name: str) -> str:
    for architecture in getattr(config, "architectures", None) or ():
        for kind, ending in (("image", "ForImageClassification"), ("text", "ForSequenceClassification")):
            if architecture.endswith(ending):
                return kind
    if type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return "image"
    if type(config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return "text"
    raise mistake(
        f"{name!r} is a {config.model_type} model, which classifies neither images nor texts; what it writes, funattr explain "
        "PROMPT --answer TEXT explains."
    )


def _tokenized(tokenizer: Any) -> Callable[[str], Text]:
    # Of bytes: then tokens are parts of letters, and a blank is Ġ. Whoever has no such token may take no such letter, either.
    by_bytes = "Ã" in tokenizer.get_vocab() and "Ã" in "".join(tokenizer.tokenize("é"))

    def text(given: str) -> Text:
        made = tokenizer(given, return_tensors="pt", truncation=True)
        x = dict(made)
        ids = x["input_ids"][0].tolist()
        if "attention_mask" in x and bool(x["attention_mask"].all()):
            del x["attention_mask"]  # says nothing about one text, and models look into it, which no vmap can
        tokens = decoded(tokenizer, ids, []).texts if by_bytes else tokenizer.convert_ids_to_tokens(ids)
        tokens = [token.replace("▁", " ") for token in tokens]
        whole = len(tokenizer(given)["input_ids"])
        return Text(x, tokens, _words(made, given, tokens), whole if whole > len(ids) else None)

    return text


def _words(made: Any, given: str, tokens: Sequence[str]) -> list[tuple[str, list[int]]] | None:
    """The words of the text, with the places of their tokens; a token that is of no word stands for itself."""
    if not getattr(made, "is_fast", False):
        return None
    words: list[tuple[str, list[int]]] = []
    last = None
    for place, word in enumerate(made.word_ids(0)):
        if word is not None and word == last:
            words[-1][1].append(place)
        else:
            words.append((tokens[place].strip() or tokens[place], [place]))
            if word is not None:
                span = made.word_to_chars(0, word)
                words[-1] = given[span.start : span.end].strip() or words[-1][0], [place]
        last = word
    return words


_FROM: dict[str, Callable[[str, argparse.Namespace], Source]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "transformers": from_transformers,
}
