"""The shape of an MMoLRE model, as it is written to and read from ``config.json``."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmolre.schema import EMOTIONS, TASKS

TASK_OUTPUTS = {"sentiment": 1, "emotion": len(EMOTIONS)}
"""Outputs per task: one regression value; six logits in the order of :data:`mmolre.schema.EMOTIONS`."""

LARGEST = 2**14
"""Of a width or a rank, far beyond use: who makes a model of somebody's ``config.json`` is not to run out of memory."""
MOST = 1024
"""Of layers or experts, likewise."""

ModalityName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class LoraConfig(BaseModel):
    """Low-rank adapters beside the layers' products (LoRA; Hu et al., ICLR 2022).

    Attributes:
        rank, alpha: the adapter adds alpha / rank times a product of that rank.
        dropout: on the adapter's input.
        targets: names of the linear parts that get one, e.g. ``query``; ``all`` alone for every one; by default the
            attention's query and value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()


class AdaptedConfig(BaseModel):
    """Upper layers of an encoder that are a part of the model (:mod:`mmolre.model.upper`).

    Attributes:
        config: the encoder's configuration, as transformers writes it, but for where its files lie, their precision
            and who wrote them.
        first: the hidden state that enters the lowest of them; 0 is what enters the encoder's first layer.
        states: which hidden states go on into the model, counted likewise.
        tokens: whether the features are token ids, whose embeddings are run here too.
        embeddings: whether these learn.
        lora: low-rank adapters learn and nothing else of the encoder; ``None``: the layers themselves do.
        stride: mean over so many positions of what leaves the layers.
        checkpointing: run each layer a second time in the backward pass, instead of keeping what it computed.
        surroundings: the features' last column is 1 at positions that are the utterance's own and 0 at what was said
            around it, which is read and not given on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: dict[str, Any]
    first: int = Field(ge=0)
    states: tuple[int, ...] = Field(min_length=1)
    tokens: bool = False
    embeddings: bool = False
    lora: LoraConfig | None = None
    stride: int = Field(default=1, ge=1)
    checkpointing: bool = False
    surroundings: bool = False

    @field_validator("config")
    @classmethod
    def _the_encoder_alone(cls, config: dict[str, Any]) -> dict[str, Any]:
        # A folder is of one machine, and no other's business; everything is float32 here.
        left = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
        return {key: value for key, value in config.items() if key not in left}

    @property
    def given(self) -> tuple[int, ...]:
        """The hidden states that the features hold: those below that are wanted, and ``first``."""
        return tuple(sorted({state for state in self.states if state < self.first} | {self.first}))


class ModalityConfig(BaseModel):
    """What one modality's features look like.

    Attributes:
        width: width d_m of one feature vector.
        layers: how many encoder layers the features hold; they are mixed with learned weights (softmax).
        standardize: whether each value of each layer is brought to mean 0 and deviation 1 with figures fitted on the
            training split, before the layers are mixed, instead of a LayerNorm after it.
        mix: how several layers become one: ``weights`` (a learned softmax weight per layer, then one projection) or
            ``concat`` (a projection for each layer, summed: a layer may give other things than its neighbours).
        dropout: of the values that are projected.
        adapted: the encoder's upper layers, where they learn with the model; ``width`` and ``layers`` are then of what
            leaves them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(gt=0, le=2**20)
    layers: int = Field(default=1, gt=0, le=MOST)
    standardize: bool = False
    mix: Literal["weights", "concat"] = "weights"
    dropout: float = Field(default=0, ge=0, lt=1)
    adapted: AdaptedConfig | None = None


class ModelConfig(BaseModel):
    """Hyper-parameters of :class:`mmolre.MMoLRE`; docs/method.md says which are the paper's.

    Attributes:
        modalities: name -> feature shape; any number, any names.
        tasks: which of ``sentiment`` and ``emotion`` the model predicts.
        trunk: the middle of the model: ``unitse``, the paper's; ``ple``, a baseline
            (:class:`mmolre.baselines.ple.PLE`; its gates are dense, so ``top_k`` and ``renormalize`` are not read).
        width: the trunk's width d (paper: 768).
        blocks: UniTSE blocks per modality (paper: 2); 0 removes UniTSE.
        shared_ranks: ranks r_n of the N shared experts, possibly unequal; ``()`` removes them.
        specific_rank: rank of the one expert that each task owns; 0 removes them.
        top_k: how many shared experts each router keeps (k = N keeps all); not read where there is no router.
        activation: between an expert's two convolutions (ours: GELU).
        routing: ``utterance`` (one set of gates per utterance), ``token``, or ``uniform`` (no router: gates 1 / N).
            Uniform and without own experts, nothing differs between the tasks: hard parameter sharing.
        renormalize: divide the kept gates by their sum. Off by default (ours): with k = 1 a renormalised gate is the
            constant 1, and the router would learn nothing from the tasks.
        fusion: ``task`` (task-adaptive, one per task) or ``shared`` (one for all tasks).
        attention_width, attention_heads: inner width and heads of the cross-modal attention.
        unimodal_heads: one auxiliary linear head per modality and task (multi-loss training).
        dropout: after the input projection, around each block and inside the heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: dict[ModalityName, ModalityConfig] = Field(min_length=1, max_length=64)
    tasks: tuple[Literal["sentiment", "emotion"], ...] = TASKS
    trunk: Literal["unitse", "ple"] = "unitse"
    width: int = Field(default=384, gt=0, le=LARGEST)
    blocks: int = Field(default=2, ge=0, le=MOST)
    shared_ranks: tuple[Annotated[int, Field(le=LARGEST)], ...] = Field(
        default=(16, 16, 32, 32, 32, 32, 48, 48), max_length=MOST
    )
    specific_rank: int = Field(default=64, ge=0, le=LARGEST)
    top_k: int = Field(default=4, ge=1)
    activation: Literal["gelu", "relu", "none"] = "gelu"
    routing: Literal["utterance", "token", "uniform"] = "utterance"
    renormalize: bool = False
    fusion: Literal["task", "shared"] = "task"
    attention_width: int = Field(default=128, gt=0, le=LARGEST)
    attention_heads: int = Field(default=4, gt=0)
    unimodal_heads: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks must name one or both of sentiment and emotion, each once")
        if any(rank < 1 for rank in self.shared_ranks):
            raise ValueError("shared_ranks must all be at least 1")
        chooses = self.trunk == "unitse" and self.routing != "uniform"
        if chooses and self.shared_ranks and self.top_k > len(self.shared_ranks):
            raise ValueError(f"top_k is {self.top_k}, but there are only {len(self.shared_ranks)} shared experts")
        if self.blocks and not self.shared_ranks and not self.specific_rank:
            raise ValueError("a block needs shared_ranks, a specific_rank, or both; blocks: 0 removes UniTSE")
        if self.trunk == "ple" and not (self.shared_ranks and self.specific_rank and self.routing == "utterance"):
            raise ValueError("trunk ple needs shared_ranks, a specific_rank and routing: utterance")
        if self.attention_width % self.attention_heads or self.width % self.attention_heads:
            raise ValueError("attention_heads must divide both attention_width and width")
        return self
