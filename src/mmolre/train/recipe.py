"""Recipes: everything that defines a training run, in one YAML file. Unknown keys are refused."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from mmolre.errors import UserError
from mmolre.evaluate.report import direction
from mmolre.evaluate.thresholds import modality_key
from mmolre.model.config import LoraConfig, ModalityName, ModelConfig
from mmolre.train.precision import Precision

RECIPE_FILE = "recipe.json"
"""A run's recipe, in its folder."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)  # JSON has no infinity


class AugmentRecipe(_Part):
    """What of a voice a training step hears (:func:`mmolre.train.augment.shortened`), and as whose.

    Attributes:
        keep: at least this share of the frames (rounded), in one piece.
        cuts: how many gaps there are in it.
        cut: the largest gap, as a share of what is left.
        warps: Whisper only: each utterance is also encoded as from longer (above 1) and shorter (below 1) vocal tracts
            (:func:`mmolre.encoders.warp.warped`); each step draws one of these or the voice as it is. The features take
            so many times more room on the disk.
    """

    keep: float = Field(default=0.6, gt=0, le=1)
    cuts: int = Field(default=2, ge=0)
    cut: float = Field(default=0.15, ge=0, lt=1)
    warps: tuple[Annotated[float, Field(ge=0.5, le=2)], ...] = ()


class EncoderRecipe(_Part):
    """One modality's encoder.

    Attributes:
        source: a role of ``mmolre encoders list``, a folder, or an id of the model hub.
        layers: which hidden states, 0 the embeddings, -1 the last; several are mixed with learned weights.
        stride: audio only: mean over this many frames (Whisper: 50 frames/s; 4 gives 12.5).
        standardize: bring each column of each layer to mean 0 and deviation 1, by figures of the training split; for
            encoders with outlier columns or layers of unequal scale (Whisper).
        mix: ``weights`` or ``concat``: see :class:`mmolre.model.config.ModalityConfig`.
        dropout: of the values that are projected; for small corpora.
        max_tokens: text only: cut there; the encoder's own window by default.
        lower_if_upper: text only: texts in upper case throughout (CMU-MOSI's) are read in lower case; for encoders that
            tell the two apart (RoBERTa).
        surrounding_tokens: text only: an utterance is read with so many tokens of what was said before and after it in
            its recording, as far as the encoder's window goes; the model is given the utterance's own tokens alone.
            0 for none.
        adapt: ``frozen``; ``full``: its upper layers learn with the model; ``lora``: low-rank adapters in them do. What
            leaves the layers below is computed once and kept.
        upper: how many of its layers adapt, counted from the top; all by default.
        embeddings: whether the embeddings of a text encoder learn too; by default where all layers do, in full.
        lora: see :class:`mmolre.model.config.LoraConfig`.
        learning_rate: of what adapts, instead of ``training.encoder_learning_rate``.
        checkpointing: run adapted layers twice instead of keeping what they computed: less memory, a third more time.
        augment: audio only: in training, hear a part of each utterance, drawn anew each time; ``{}`` for the defaults.
    """

    source: str
    layers: tuple[int, ...] = Field(default=(-1,), min_length=1)
    stride: int = Field(default=1, ge=1)
    standardize: bool = False
    mix: Literal["weights", "concat"] = "weights"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: int | None = Field(default=None, ge=3)
    lower_if_upper: bool = False
    surrounding_tokens: int = Field(default=0, ge=0)
    adapt: Literal["frozen", "lora", "full"] = "frozen"
    upper: int | None = Field(default=None, ge=1)
    embeddings: bool | None = None
    lora: LoraConfig = LoraConfig()
    learning_rate: float | None = Field(default=None, gt=0)
    checkpointing: bool = False
    augment: AugmentRecipe | None = None

    @model_validator(mode="after")
    def _adapts(self) -> Self:
        if self.adapt == "frozen" and (self.upper, self.embeddings, self.learning_rate) != (None, None, None):
            raise ValueError("upper, embeddings and learning_rate need adapt: full or adapt: lora")
        if self.embeddings and (self.adapt == "lora" or self.upper is not None):
            raise ValueError("embeddings learn only with adapt: full and without upper, which is when all layers do")
        return self


class FeaturesRecipe(_Part):
    """Ready-made features as a modality, under the name that the manifest gives them; see docs/data.md.

    Attributes:
        standardize: bring each column to mean 0 and deviation 1, by figures of the training split.
        stride: mean over so many time steps.
    """

    standardize: bool = True
    stride: int = Field(default=1, ge=1)


class ModelRecipe(_Part):
    """Overrides of :class:`mmolre.model.config.ModelConfig`, whose defaults and meanings apply."""

    tasks: tuple[Literal["sentiment", "emotion"], ...] = ModelConfig.model_fields["tasks"].default
    trunk: Literal["unitse", "ple"] = "unitse"
    width: int = ModelConfig.model_fields["width"].default
    blocks: int = ModelConfig.model_fields["blocks"].default
    shared_ranks: tuple[int, ...] = ModelConfig.model_fields["shared_ranks"].default
    specific_rank: int = ModelConfig.model_fields["specific_rank"].default
    top_k: int = ModelConfig.model_fields["top_k"].default
    activation: Literal["gelu", "relu", "none"] = "gelu"
    routing: Literal["utterance", "token", "uniform"] = "utterance"
    renormalize: bool = False
    fusion: Literal["task", "shared"] = "task"
    attention_width: int = ModelConfig.model_fields["attention_width"].default
    attention_heads: int = ModelConfig.model_fields["attention_heads"].default
    unimodal_heads: bool = True
    dropout: float = ModelConfig.model_fields["dropout"].default


class ObjectiveRecipe(_Part):
    """The loss: weighted sum of L1 (sentiment), BCE (emotion), unimodal losses and the routers' balance term.

    Attributes:
        sentiment, emotion: fixed task weights.
        balance_tasks: ``fixed``, or ``uncertainty``: learned homoscedastic weights (Kendall et al., 2018) on top.
        emotion_targets: what an emotion's probability learns: ``binary``, present or not; ``graded``, its intensity up
            to 1, so that what one of three annotators saw a little of counts a third; ``soft``, a third of its
            intensity (0 to 3; labels that only say present, 1, become a third too).
        emotion_balance: a present emotion counts (absent / present) to this power, by the training split's counts: 0
            all alike, 1 each emotion's two sides the same.
        emotion_focus: asymmetric loss (Ridnik et al., ICCV 2021): an absent emotion counts its probability, less
            ``emotion_margin``, to this power, so that easy absences count little; 0 for none, else at least 1 (below,
            its gradient is not finite), 4 in the paper.
        emotion_margin: see there; only where ``emotion_focus`` is not 0.
        r_drop: weight of the difference between two passes with dropout drawn twice (R-Drop; Wu et al., NeurIPS 2021;
            squared for sentiment, symmetric KL for emotions); 0 for one pass. Costs a second pass.
        unimodal: weight of the mean of the auxiliary unimodal losses.
        router_balance: weight of the balance term.
        exclusive: sets of modalities, e.g. ``[audio]``, whose utterances hold at most one emotion (acted voices): their
            loss is a softmax over the six and none (:func:`mmolre.train.objective.emotion_loss`). An utterance of which
            modality dropout leaves such a set is learned so in that step, as it would be read.
        teaching: share of the loss that is the distance to what ``teachers`` say (:mod:`mmolre.train.teachers`), the
            rest being that to the labels, where an utterance has both; of no effect without teachers.
        surgery: ``none``, or ``pcgrad``: where the tasks' gradients of what they share conflict, each loses its part
            along the other (:mod:`mmolre.train.surgery`); costs a second backward pass.
    """

    sentiment: float = Field(default=1.0, ge=0)
    emotion: float = Field(default=1.0, ge=0)
    balance_tasks: Literal["fixed", "uncertainty"] = "fixed"
    emotion_targets: Literal["binary", "graded", "soft"] = "binary"
    emotion_balance: float = Field(default=0.0, ge=0, le=1)
    emotion_focus: float = Field(default=0.0, ge=0)
    emotion_margin: float = Field(default=0.05, ge=0, lt=1)
    r_drop: float = Field(default=0.0, ge=0)
    unimodal: float = Field(default=0.2, ge=0)
    router_balance: float = Field(default=1e-3, ge=0)
    exclusive: tuple[str, ...] = ()
    teaching: float = Field(default=0.5, ge=0, le=1)
    surgery: Literal["none", "pcgrad"] = "none"

    @model_validator(mode="after")
    def _focused(self) -> Self:
        if 0 < self.emotion_focus < 1:
            raise ValueError("emotion_focus is 0 or at least 1")
        return self


Part = Literal["inputs", "unitse", "shared", "specific", "routers", "fusion", "heads", "unimodal_heads"]


class TrainingRecipe(_Part):
    """How to optimise.

    Attributes:
        epochs: at most.
        batch_size: utterances.
        learning_rate: AdamW's peak, after a linear warm-up over ``warmup`` (fraction of all steps), then cosine to 0.
        encoder_learning_rate: the peak for what adapts of encoders; the same schedule.
        rates: part of the model -> its share of ``learning_rate``, e.g. ``{specific: 0.3}``: ``inputs`` (projections),
            ``unitse`` (all experts and routers), in it ``shared``, ``specific`` and ``routers``, ``fusion``, ``heads``
            and ``unimodal_heads``. The innermost counts; 1 where none is named.
        layer_decay: each layer of an encoder learns at this fraction of the rate of the one above it.
        accumulate: go through a batch in so many parts, one after the other: less memory, the same step but for
            rounding, the balance term and unimodal heads where not all utterances have the same modalities.
        clip: gradient norm.
        ema: decay of the averaged weights that are validated and saved; 0 for none.
        modality_dropout: chance that an utterance with several modalities loses all but one of them in a step.
        repeat: set of modalities, e.g. ``audio``, -> how often its utterances are seen in an epoch, so
            that a small corpus of voices is not drowned by a large one of texts; 1 where not named, 0 for not at all.
        only: modalities whose own parts learn (what adapts of their encoder, projection, experts, auxiliary heads),
            while all else stays as ``start_from`` has it: what is predicted from the others does not change. All learns
            by default.
        keep: the ``best`` epoch by the score, or the ``last``, where valid is too small to choose by.
        patience: stop after so many epochs without a better score; of no effect where the last is kept.
        primary: metrics on valid that choose the epoch; several are averaged, those to be minimised negated.
        checkpoint_minutes: also save in the middle of an epoch, this often.
        precision: ``fp32``, or ``bf16``: products in bfloat16 (autocast), those of teachers too, weights and validation
            in float32; faster on a GPU and on CPUs with AMX. A CPU that would have to emulate it computes in ``fp32``.
        conflict_every: log the cosine between the two tasks' gradients, layer by layer, every so many steps, for
            ``mmolre explain`` (:mod:`mmolre.train.conflict`); 0 for never. Costs a second backward pass then, and
            changes nothing else.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    encoder_learning_rate: float = Field(default=5e-5, gt=0)
    rates: dict[Part, Annotated[float, Field(gt=0)]] = {}
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    accumulate: int = Field(default=1, ge=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    modality_dropout: float = Field(default=0.3, ge=0, le=1)
    repeat: dict[str, Annotated[int, Field(ge=0)]] = {}
    only: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"
    patience: int = Field(default=5, ge=1)
    primary: tuple[str, ...] = Field(default=("sentiment.mae",), min_length=1)
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    precision: Precision = "fp32"
    conflict_every: int = Field(default=0, ge=0)

    def visits(self, modalities: Iterable[str]) -> int:
        """How often an utterance that has these modalities is seen in an epoch."""
        return self.repeat.get(modality_key(tuple(modalities)), 1)


_KEPT_BY_NAME = (nn.ModuleDict, nn.ParameterDict)
"""What a model keeps a modality's parts in, as attributes: their own ones are no names for a modality."""


class Recipe(_Part):
    """A training run. See the commented files in ``recipes/``.

    Attributes:
        encoders, features: the modalities; at least one in all.
        emotion_fusion: how an utterance with several modalities gets its emotions: ``fused`` by the model, ``late``
            from the modalities' own calibrated logits, or ``auto``: late where valid has no such labelled utterance.
        sentiment_fusion: how it gets its sentiment: ``fused``, or ``anchored``: pulled toward that of the best modality
            alone, as far as valid says (:mod:`mmolre.evaluate.anchor`); where few utterances have both.
        context: ``recording``: an utterance is also read in the light of the others of its recording
            (:mod:`mmolre.evaluate.context`), one with at most one emotion (``objective.exclusive``) in that of its
            speaker's (:mod:`mmolre.evaluate.speaker`); ``none``: each on its own. Learning is the same.
        start_from: a run's folder, a model's folder, a hub id or ``shipped``, whose weights are the first ones, as far
            as the two models have them in common; for a small corpus, or an encoder that adapts to what is learned
            already.
        start_fresh: modalities whose own parts (see ``training.only``) begin anew all the same.
        teachers: runs' folders, models' folders, hub ids, or files of predictions (``….jsonl``, as ``mmolre predict``
            writes them); what they say of the training utterances is learned beside the labels, for
            ``objective.teaching`` of the loss: distillation, of a larger model or of several.
        refit: the folder of a finished run of this very recipe (without this key) and seed: train and valid are learned
            together, for as many epochs as it kept, and predictions are read as it decided on valid
            (:mod:`mmolre.train.refit`). Once nothing is left to choose; test alone can say what came of it.
    """

    name: str
    encoders: dict[Literal["text", "audio"], EncoderRecipe] = {}
    features: dict[ModalityName, FeaturesRecipe] = {}
    model: ModelRecipe = ModelRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    training: TrainingRecipe = TrainingRecipe()
    emotion_fusion: Literal["auto", "fused", "late"] = "auto"
    sentiment_fusion: Literal["fused", "anchored"] = "fused"
    context: Literal["none", "recording"] = "none"
    start_from: str | None = None
    start_fresh: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    refit: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**64)

    @property
    def begins_with(self) -> list[tuple[str, str]]:
        """Key and name of each model, and of each file of predictions, that a run begins with."""
        first = [("start_from", self.start_from)] if self.start_from else []
        return [*first, *(("teachers", name) for name in self.teachers)]

    @property
    def title(self) -> str:
        """What its runs and results are called."""
        return f"{self.name}-refit" if self.refit else self.name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        modalities = {*self.encoders, *self.features}
        if not modalities:
            raise ValueError("name at least one modality, under encoders or features")
        if taken := {"text", "audio"} & set(self.features):
            raise ValueError(f"features cannot be called {taken.pop()}, the name of an encoder: choose another")
        if taken := {name for name in self.features if any(hasattr(kept(), name) for kept in _KEPT_BY_NAME)}:
            raise ValueError(f"features cannot be called {taken.pop()}, which torch has a use for: choose another")
        if "text" in self.encoders and self.encoders["text"].augment is not None:
            raise ValueError("encoders.text.augment: only voices can be heard in part")
        for where, named in (("training.only", self.training.only), ("start_fresh", self.start_fresh)):
            if unknown := set(named) - modalities:
                raise ValueError(f"{where}: {', '.join(sorted(unknown))} is no modality of the recipe")
            if named and self.start_from is None:
                raise ValueError(f"{where} needs start_from: the rest must have learned before")
        if never := set(self.start_fresh) - set(self.training.only or modalities):
            raise ValueError(f"start_fresh: {', '.join(sorted(never))} would never learn: name it in training.only")
        if self.training.accumulate > 1 and self.objective.surgery != "none":
            raise ValueError("training.accumulate does not go with objective.surgery")
        sets = [("training.repeat", key) for key in self.training.repeat]
        sets += [("objective.exclusive", key) for key in self.objective.exclusive]
        for where, key in sets:
            parts = key.split("+")
            if not modalities >= set(parts) or modality_key(parts) != key:
                known = modality_key(tuple(modalities))
                raise ValueError(f"{where}: {key} is no set of the modalities {known}, in that order")
        for key in self.training.primary:
            try:
                direction(key)
            except UserError as error:
                raise ValueError(f"training.primary: {error}") from None
        return self


def load_recipe(path: Path, overrides: dict[str, str] | None = None) -> Recipe:
    """Read a recipe file; ``overrides`` sets single values by dotted key, e.g. ``{"training.epochs": "3"}``.

    Raises:
        UserError: no such file, not YAML, an unknown key (the nearest known one is suggested), a bad value.
    """
    import yaml

    try:
        content = _read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path} holds no recipe: its brackets are nested too deep") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no recipe: expected keys such as name, encoders, model")
    for key, value in (overrides or {}).items():
        try:
            _set(content, key, _read_yaml(value))
        except (yaml.YAMLError, RecursionError):
            raise UserError(
                f"cannot set {key}: {value!r} is not a YAML value, such as 3, 0.5, text or [a, b]"
            ) from None
    return parse_recipe(content, str(path))


def _read_yaml(text: str) -> Any:
    """``yaml.safe_load``, but a key that is given twice is an error: the first one's values would be dropped."""
    import yaml

    checked: set[yaml.Node] = set()  # an alias is the node itself: each is looked at once

    def check(node: Any) -> None:
        if node in checked:
            return
        checked.add(node)
        if isinstance(node, yaml.SequenceNode):
            for part in node.value:
                check(part)
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                    seen.add(key.value)
                check(value)

    check(yaml.compose(text, yaml.SafeLoader))
    return yaml.safe_load(text)


def parse_recipe(content: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe's content; ``where`` names it in messages."""
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from None
    try:  # the parts of a model must also fit each other
        ModelConfig.model_validate({"modalities": {"text": {"width": 1}}, **recipe.model.model_dump()})
    except ValidationError as error:
        raise UserError(f"{where}: model: {_first_problem(error)}") from None
    return recipe


def holds(path: Path, recipe: Recipe) -> bool:
    """Whether a run's recipe file holds this very recipe; keys that it lacks, being older, have their defaults."""
    try:
        return Recipe.model_validate_json(path.read_bytes()) == recipe
    except ValidationError:
        return False


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return Recipe.model_validate_json((run / RECIPE_FILE).read_bytes())
    except OSError as error:
        raise UserError(f"{run} holds no run: {RECIPE_FILE}: {error.strerror or error}") from None
    except ValidationError as error:
        raise UserError(f"{run / RECIPE_FILE}: {_first_problem(error)}") from None


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise UserError(f"cannot set {dotted}: {parent} is not a group of keys")
    content[last] = value


def _first_problem(error: ValidationError) -> str:
    # A misspelt key comes first: it often is also why another one is missing.
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("tuple_type", "list_type"):  # YAML has no tuples
            example = f", such as [{problem['input']}]" if isinstance(problem["input"], (str, int, float)) else ""
            message = f"Input should be a list{example}"
        return f"{place}: {message}" if place else message
    known = _keys_of(Recipe, problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {place}; {hint}"


def _keys_of(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "model": ModelRecipe, "objective": ObjectiveRecipe, "training": TrainingRecipe, "encoders": EncoderRecipe,
        "features": FeaturesRecipe, "lora": LoraConfig, "augment": AugmentRecipe
    }  # fmt: skip
    groups = (*path[:1], *path[2:])  # the second is a modality's name
    owner = next((parts[str(key)] for key in reversed(groups) if key in parts), Recipe)
    return list(owner.model_fields)
