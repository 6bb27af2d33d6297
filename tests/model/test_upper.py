import contextlib
import threading

import numpy as np
import pytest
import torch

from mmolre import UserError
from mmolre.data.batching import collate
from mmolre.encoders.audio import AudioEncoder, whisper_states
from mmolre.encoders.text import TextEncoder
from mmolre.model.config import AdaptedConfig, LoraConfig
from mmolre.model.upper import Upper, load_saved, saved_state
from mmolre.schema import Utterance
from mmolre.train.adaptation import adapted, make_encoder
from mmolre.train.recipe import EncoderRecipe
from tiny_encoders import write_data2vec_audio, write_roberta, write_text_like, write_whisper

TEXTS = ["i love this movie", "so very good", "was it bad? not so very bad, and i hate the movie a lot", "bad"]
KINDS = ("bert", "roberta", "mpnet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    roberta = write_roberta(folder / "roberta", layers=4)
    return {
        "roberta": roberta,
        "bert": write_text_like(folder / "bert", roberta, "bert"),
        "mpnet": write_text_like(folder / "mpnet", roberta, "mpnet"),
        "data2vec-audio": write_data2vec_audio(folder / "data2vec", layers=4),
        "whisper": write_whisper(folder / "whisper", layers=4),
    }


def recipe(source, **options) -> EncoderRecipe:
    return EncoderRecipe.model_validate({"source": str(source), "adapt": "full", **options})


def make(part: EncoderRecipe, modality: str = "text"):
    """The encoder of the features and the layers above it."""
    encoder = make_encoder(modality, part, "cpu")
    config = adapted(part, encoder)
    assert config is not None
    upper = Upper(config)
    upper.load_base(encoder.whole())
    return encoder, upper.eval()


def whole(encoder: TextEncoder):
    """The plain model of transformers, and its inputs for TEXTS."""
    model = encoder.whole().eval()
    inputs = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return model, {key: inputs[key] for key in ("input_ids", "attention_mask")}


def batch_of(values):
    made = collate([Utterance("")] * len(values), [{"x": x} for x in values])
    return made.features["x"], made.masks["x"]


# ---- split and whole are the same ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [1, 3])
def test_upper_layers_on_the_lower_ones_output(folders, kind, first):
    encoder, upper = make(recipe(folders[kind], upper=4 - first, layers=(-1, first, -2)))
    model, inputs = whole(encoder)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        mask = inputs["attention_mask"].bool()
        found, kept = upper(states[first][:, :, None], mask)  # not rounded, as kept features are
    assert torch.equal(kept, mask)
    wanted = torch.stack([states[4], states[first], states[3]], dim=2)
    assert (found - wanted)[mask].abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_from_tokens(folders, kind):
    encoder, upper = make(recipe(folders[kind], layers=(-1, 0)))
    features = [f.values for f in encoder.encode(TEXTS)]
    assert features[0].shape[1:] == (1, 2)
    model, inputs = whole(encoder)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        found, mask = upper(*batch_of(features))
    assert torch.equal(mask, inputs["attention_mask"].bool())
    assert (found - torch.stack([states[4], states[0]], dim=2))[mask].abs().max() < 1e-5
    words = upper.embeddings.word_embeddings(inputs["input_ids"][2:3])  # as `mmolre explain` gives them
    with torch.no_grad():
        assert torch.allclose(upper(words[:, :, None], mask[2:3])[0], found[2:3], atol=1e-5)


def test_large_ids_survive():
    ids = [0, 5, 2047, 2048, 30521, 250_001]
    from mmolre.encoders.text import ID_BASE, _digits

    values = _digits(ids)
    assert values.dtype == np.float16
    digits = torch.from_numpy(values)[:, 0].long()
    assert (digits[:, 0] * ID_BASE + digits[:, 1]).tolist() == ids


@pytest.mark.parametrize("kind", KINDS)
def test_kept_features_are_those_of_the_split(folders, kind):
    encoder, _ = make(recipe(folders[kind], upper=2, layers=(-1, 1)))
    assert encoder.layers == (1, 2)
    plain = TextEncoder(str(folders[kind]), (1, 2, 4)).encode(TEXTS)  # not cut
    for ours, theirs in zip(encoder.encode(TEXTS), plain, strict=True):
        assert np.abs(ours.values.astype(np.float32) - theirs.values[:, :2]).max() < 2e-3
    from mmolre.encoders.stack import layers_of

    assert len(layers_of(encoder.module)) == 2  # what nobody needs is not run


@pytest.mark.parametrize("kind", ["whisper", "data2vec-audio"])
@pytest.mark.parametrize("count", [2, 4])
def test_audio(folders, kind, count):
    encoder, upper = make(recipe(folders[kind], upper=count, layers=(-1, -2)), "audio")
    waves = [np.random.default_rng(i).normal(size=n).astype(np.float32) / 9 for i, n in enumerate((4000, 9000, 6400))]
    plain = AudioEncoder(str(folders[kind]), (-1, -2)).encode(waves)
    # Features are rounded to float16, and layers this small and random make much of it: so from unrounded ones.
    states = []
    for wave in waves:
        if kind == "whisper":
            mel = encoder.extractor(wave, sampling_rate=16000, padding="do_not_pad", return_tensors="pt").input_features
            states.append(whisper_states(encoder.module, mel)[4 - count][0].detach()[:, None].numpy())
        else:
            states.append(encoder._wave_states(wave)[4 - count][0].detach()[:, None].numpy())
    with torch.no_grad():
        found, mask = upper(*batch_of(states))
    for row, truth in enumerate(plain):
        assert int(mask[row].sum()) == len(truth.values)
        assert np.abs(found[row][mask[row]].numpy() - truth.values.astype(np.float32)).max() < 3e-3


def test_a_long_recording_is_cut_into_the_same_windows(folders):
    encoder, upper = make(recipe(folders["whisper"], upper=2), "audio")
    wave = np.random.default_rng(0).normal(size=320 * 1700).astype(np.float32) / 9
    short = wave[: 320 * 40]
    plain = [f.values[:, 0] for f in AudioEncoder(str(folders["whisper"])).encode([wave, short])]
    with torch.no_grad():
        found, mask = upper(*batch_of([f.values for f in encoder.encode([wave, short])]))
    assert found.isfinite().all()
    for row in range(2):
        off = np.abs(found[row, mask[row], 0].numpy() - plain[row])
        assert off.mean() < 2e-3
        assert off.max() < 5e-2


def test_stride_means_what_it_means_of_frozen_encoders(folders):
    options = {"layers": (-1,), "stride": 4}
    encoder, upper = make(recipe(folders["whisper"], upper=1, **options), "audio")
    assert encoder.stride == 1
    waves = [np.random.default_rng(i).normal(size=n).astype(np.float32) / 9 for i, n in enumerate((4000, 9000))]
    plain = AudioEncoder(str(folders["whisper"]), (-1,), 4).encode(waves)
    with torch.no_grad():
        found, mask = upper(*batch_of([f.values for f in encoder.encode(waves)]))
    for row, truth in enumerate(plain):
        assert int(mask[row].sum()) == len(truth.values)
        assert np.abs(found[row][mask[row]].numpy() - truth.values).max() < 2e-2


# ---- learning ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 2])
def test_loss_and_gradients_of_plain_transformers(folders, kind, first):
    encoder, upper = make(recipe(folders[kind], upper=None if first == 0 else 4 - first))
    model, inputs = whole(encoder)
    mask = inputs["attention_mask"].bool()
    target = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))

    def loss_of(last):
        pooled = (last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return ((pooled - target) ** 2).mean()

    theirs = loss_of(model(**inputs).last_hidden_state)
    theirs.backward()
    if first == 0:
        x, _ = batch_of([f.values for f in encoder.encode(TEXTS)])
    else:
        with torch.no_grad():
            x = model(**inputs, output_hidden_states=True).hidden_states[first][:, :, None]
    ours = loss_of(upper(x, mask)[0][:, :, 0])
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    truth = {}
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.layer."):
            _, _, index, rest = name.split(".", 3)
            truth[f"layers.{int(index) - first}.{rest}"] = parameter.grad
        else:
            truth[name.replace("encoder.relative", "relative.relative")] = parameter.grad
    compared = 0
    for name, parameter in upper.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        wanted = truth[name]
        assert torch.allclose(parameter.grad, wanted, atol=1e-6, rtol=1e-4), name
        compared += int(wanted.abs().max() > 1e-5)
    assert compared > 10 * (4 - first)


@pytest.mark.parametrize("lora", [None, LoraConfig(targets=("all",))])
def test_padding_and_company_change_nothing(folders, lora):
    adapt = {"adapt": "lora", "lora": lora.model_dump()} if lora else {}
    for kind in KINDS:
        for count in (2, None):
            encoder, upper = make(recipe(folders[kind], upper=count, **adapt))
            _nudge(upper)
            values = [f.values for f in encoder.encode(TEXTS)]
            with torch.no_grad():
                together, mask = upper(*batch_of(values))
                for row, value in enumerate(values):
                    alone, _ = upper(*batch_of([value]))
                    assert (together[row][mask[row]] - alone[0]).abs().max() < 1e-5


def test_checkpointing_changes_no_gradient(folders):
    found = []
    for checkpointing in (False, True):
        encoder, upper = make(recipe(folders["bert"], upper=3, checkpointing=checkpointing))
        upper.train()
        torch.manual_seed(3)  # dropout is drawn anew, and the same, in the second pass
        upper(*batch_of([f.values for f in encoder.encode(TEXTS)]))[0].square().sum().backward()
        found.append([p.grad.clone() for p in upper.parameters() if p.grad is not None])
    assert len(found[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _nudge(upper: Upper) -> None:
    with torch.no_grad():
        for parameter in upper.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))


# ---- LoRA ----


def test_lora_starts_as_the_encoder_and_saves_adapters_alone(folders):
    encoder, plain = make(recipe(folders["mpnet"], upper=2))
    _, upper = make(recipe(folders["mpnet"], upper=2, adapt="lora", lora={"rank": 3, "alpha": 6}))
    x, mask = batch_of([f.values for f in encoder.encode(TEXTS)])
    with torch.no_grad():
        assert torch.equal(upper(x, mask)[0], plain(x, mask)[0])
    assert {name.split(".")[-3] for name in saved_state(upper)} == {"lora_A", "lora_B"}
    assert sum(t.numel() for t in saved_state(upper).values()) == 2 * 2 * (3 * 16 + 16 * 3)  # layers, q and v, A and B
    _nudge(upper)
    again = Upper(upper.config)
    load_saved(again, saved_state(upper))
    again.load_base(encoder.whole(), frozen_only=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(x, mask)[0], upper(x, mask)[0])
        assert not torch.allclose(upper(x, mask)[0], plain(x, mask)[0], atol=1e-3)


def test_lora_is_what_it_says(folders):
    _, upper = make(recipe(folders["bert"], upper=1, adapt="lora", lora={"rank": 2, "alpha": 6, "targets": ["query"]}))
    _nudge(upper)
    query = upper.layers[0].attention.self.query
    x = torch.randn(5, 16)
    product = query.lora_B["default"].weight @ query.lora_A["default"].weight
    wanted = x @ (query.base_layer.weight + 6 / 2 * product).T + query.base_layer.bias
    assert torch.allclose(query(x), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_adapters_give_the_same_states(folders, kind):
    encoder, upper = make(recipe(folders[kind], adapt="lora", lora={"rank": 3, "alpha": 6, "targets": ["all"]}))
    _nudge(upper)
    x, mask = batch_of([f.values for f in encoder.encode(TEXTS)])
    folded = Upper(upper.config)
    load_saved(folded, saved_state(upper))
    folded.base = encoder.whole
    folded.fold()  # waits for the base
    assert any("lora_" in name for name, _ in folded.named_parameters())
    with torch.no_grad():
        found = folded.eval()(x, mask)[0]
        assert torch.allclose(found, upper(x, mask)[0], atol=1e-5)
    assert not any("lora_" in name or "base_layer" in name for name, _ in folded.named_parameters())
    assert type(folded.layers[0]) is type(upper.layers[0])
    with pytest.raises(ValueError, match="adapters are folded"):
        saved_state(torch.nn.ModuleList([folded]))


def test_what_waits_to_be_folded_is_not_saved_either(folders):
    _, upper = make(recipe(folders["bert"], adapt="lora"))
    upper.base = lambda: torch.nn.Module()
    upper.fold()
    with pytest.raises(ValueError, match="adapters are folded"):
        saved_state(upper)


def test_nothing_to_fold(folders):
    _, upper = make(recipe(folders["bert"]))
    before = saved_state(upper)
    upper.fold()
    assert saved_state(upper).keys() == before.keys()


def test_unknown_targets(folders):
    with pytest.raises(UserError, match="lora targets smell: a bert has dense, key, query, value"):
        make(recipe(folders["bert"], adapt="lora", lora={"targets": ["smell"]}))


# ---- what a recipe may say ----


def test_what_learns(folders):
    def learning(**options):
        _, upper = make(recipe(folders["roberta"], **options))
        return {name.split(".")[0] for name, p in upper.named_parameters() if p.requires_grad}

    assert learning() == {"embeddings", "layers"}
    assert learning(embeddings=False) == {"layers"}
    assert learning(upper=2) == {"layers"}
    _, upper = make(recipe(folders["roberta"], embeddings=False))
    assert upper.needs_base
    _, upper = make(recipe(folders["roberta"], upper=2))
    assert not upper.needs_base


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upper": 5}, "has 4 layers, so its upper 5 cannot adapt"),
        ({"layers": (9,)}, "has no layer 9: it has 0 to 4"),
        ({"layers": (1,), "upper": 2}, "none of the layers .1. is above what is frozen"),
    ],
)
def test_layers_that_are_not_there(folders, options, message):
    with pytest.raises(UserError, match=message):
        make(recipe(folders["roberta"], **options))


def test_other_kinds_are_refused(tmp_path):
    config = AdaptedConfig(config={"model_type": "distilbert"}, first=0, states=(1,))
    with pytest.raises(UserError, match="of the kind distilbert cannot be adapted"):
        Upper(config)


def test_depth(folders):
    _, upper = make(recipe(folders["mpnet"], upper=3))
    depth = {name.split(".")[0] + name.split(".")[1] * name.startswith("layers"): upper.depth(name)
             for name, _ in upper.named_parameters()}  # fmt: skip
    assert depth == {"layers0": 2, "layers1": 1, "layers2": 0, "relative": 3}


def test_what_was_never_brought_is_not_computed_with(folders):
    """A network of zeros would say the same of everything."""
    encoder, upper = make(recipe(folders["roberta"], adapt="lora"))
    x, mask = batch_of([f.values for f in encoder.encode(TEXTS)])
    bare = Upper(upper.config)
    load_saved(bare, saved_state(upper))
    with pytest.raises(UserError, match=r"mmolre\.load\(…\)\.bundle\.model"):
        bare(x, mask)
    bare.load_base(encoder.whole(), frozen_only=True)
    assert torch.equal(bare.eval()(x, mask)[0], upper(x, mask)[0])


@pytest.mark.parametrize("change", [{"model_type": None}, {"model_type": "no such"}, {"hidden_size": "wide"}])
def test_a_damaged_configuration(folders, change):
    config = make(recipe(folders["roberta"], upper=1))[1].config.model_dump()
    with pytest.raises(UserError, match="configuration of the encoder that adapts cannot be used"):
        Upper(AdaptedConfig.model_validate(config | {"config": config["config"] | change}))
    with pytest.raises(UserError, match="no layer 9: it has 0 to 4"):
        Upper(AdaptedConfig.model_validate(config | {"states": (9,)}))


def test_threads_that_need_the_base_at_once(folders):
    encoder, upper = make(recipe(folders["bert"], adapt="lora", lora={"rank": 3, "alpha": 6, "targets": ["all"]}))
    _nudge(upper)
    x, mask = batch_of([f.values for f in encoder.encode(TEXTS)])
    shared = Upper(upper.config).eval()
    load_saved(shared, saved_state(upper))
    both = threading.Barrier(2)

    def base():
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # the second thread is as far, where nothing holds it back
        return encoder.whole()

    shared.base = base
    shared.fold()
    found = []

    def run():
        with torch.no_grad():
            found.append(shared(x, mask)[0])

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        wanted = upper(x, mask)[0]
        found.append(shared(x, mask)[0])
    assert len(found) == 3
    assert all(torch.allclose(one, wanted, atol=1e-5) for one in found)
