from pathlib import Path

import pytest

from mmolre import UserError
from mmolre.evaluate.report import direction
from mmolre.model.config import ModelConfig
from mmolre.train.named import find_recipe
from mmolre.train.recipe import ModelRecipe, Recipe, load_recipe, parse_recipe

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALLEST = {"name": "a", "encoders": {"text": {"source": "minilm"}}}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_recipes_that_come_with_the_project(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    for key in recipe.training.primary:
        direction(key)
        assert key.split(".")[0] in recipe.model.tasks


def test_there_are_recipes():
    assert SHIPPED


def test_model_recipe_is_the_model_config_but_for_the_modalities():
    theirs, ours = ModelConfig.model_fields, ModelRecipe.model_fields
    assert set(ours) == set(theirs) - {"modalities"}
    assert {name: field.default for name, field in ours.items()} == {name: theirs[name].default for name in ours}


def test_defaults():
    recipe = parse_recipe(SMALLEST, "here")
    assert recipe.encoders["text"].layers == (-1,)
    assert recipe.model == ModelRecipe()
    assert recipe.seed == 0
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def changed(dotted: str, value: object) -> dict:
    *parents, last = dotted.split(".")
    content: dict = {"name": "a", "encoders": {"text": {"source": "minilm"}}}
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle", {}, "unknown key modle; did you mean model?"),
        ("training.epoch", 3, "unknown key training.epoch; did you mean epochs?"),
        ("model.shared_rank", [1], "unknown key model.shared_rank; did you mean shared_ranks?"),
        ("objective.balance", 1, "unknown key objective.balance; did you mean balance_tasks?"),
        ("encoders.text.layer", [1], "unknown key encoders.text.layer; did you mean layers?"),
        ("encoders.text.lora.rnk", 1, "unknown key encoders.text.lora.rnk; did you mean rank?"),
        ("encoders.text.augment", {"kep": 1}, "unknown key encoders.text.augment.kep; did you mean keep?"),
        ("features.a", {"strid": 1}, "unknown key features.a.strid; did you mean stride?"),
        ("objective.zzz", 1, "unknown key objective.zzz; known keys: sentiment, emotion, balance_tasks"),
        ("encoders.video", {"source": "x"}, "encoders.video: Input should be 'text' or 'audio'"),
        ("encoders", {}, "name at least one modality, under encoders or features"),
        ("training.epochs", 0, "training.epochs: Input should be greater than or equal to 1"),
        ("training.epochs", "many", "training.epochs: Input should be a valid integer"),
        ("training.primary", [], "training.primary: Tuple should have at least 1 item"),
        ("training.repeat", {"audio+text": 2}, "training.repeat: audio+text is no set of"),
        ("objective.exclusive", ["video"], "objective.exclusive: video is no set of"),
        ("training.repeat", {"audio": -1}, "training.repeat.audio: Input should be greater than or equal to 0"),
        ("model.width", 0, "model: width: Input should be greater than 0"),
        ("model.top_k", 9, "model: top_k is 9, but there are only 8 shared experts"),
        ("model.routing", "best", "model.routing: Input should be 'utterance', 'token' or 'uniform'"),
        ("model", None, "model: Input should be a valid dictionary"),
        ("training.primary", "emotion.wa", "training.primary: Input should be a list, such as [emotion.wa]"),
        ("training.primary", ["sentiment.maes"], "training.primary: metric 'sentiment.maes' is not known"),
        ("features", {"text": {}}, "features cannot be called text"),
        ("features", {"a+b": {}}, "features.a+b: String should match pattern"),
        ("features", {"values": {}}, "features cannot be called values, which torch has a use for"),
        ("features", {"training": {}}, "features cannot be called training, which torch has a use for"),
        ("objective.emotion_focus", 0.5, "objective: emotion_focus is 0 or at least 1"),
        ("seed", -1, "seed: Input should be greater than or equal to 0"),
        ("seed", 2**64, "seed: Input should be less than"),
    ],
)
def test_bad_content_is_said_in_one_line(key, value, message):
    with pytest.raises(UserError) as error:
        parse_recipe(changed(key, value), "r.yaml")
    assert str(error.value).startswith(f"r.yaml: {message}")
    assert "\n" not in str(error.value)


def test_a_misspelt_key_is_named_before_the_one_that_is_missing_for_it():
    with pytest.raises(UserError, match="unknown key encoder; did you mean encoders"):
        parse_recipe({"name": "a", "encoder": {"text": {"source": "minilm"}}}, "r.yaml")
    with pytest.raises(UserError, match="name: Field required"):
        parse_recipe({"encoders": {"text": {"source": "minilm"}}}, "r.yaml")


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: a  # with a comment\nencoders:\n  text: {source: minilm}\ntraining: {learning_rate: 5e-4}\n")
    return path


def test_overrides(recipe_file):
    recipe = load_recipe(
        recipe_file,
        {"training.epochs": "3", "model.shared_ranks": "[4, 8]", "model.top_k": "1", "encoders.audio.source": "x"},
    )
    assert recipe.training.epochs == 3
    assert recipe.training.learning_rate == 5e-4
    assert recipe.model.shared_ranks == (4, 8)
    assert recipe.encoders["audio"].source == "x"
    assert load_recipe(recipe_file).training.epochs != 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epoch", "3", "did you mean epochs"),
        ("name.first", "3", "cannot set name.first: name is not a group of keys"),
        ("training.primary", "[a", "cannot set training.primary: '[a' is not a YAML value"),
    ],
)
def test_bad_overrides(recipe_file, key, value, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        load_recipe(recipe_file, {key: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [a", "is not YAML"),
        (b"- a\n- b", "holds no recipe"),
        (b"", "holds no recipe"),
        (b"name: \xff", "cannot read the recipe"),
        (b"name: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_a_number_that_json_has_not_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"training\.clip: .*finite"):
        load_recipe(find_recipe("mosei-frozen"), {"training.clip": value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 1}\nname: a\ntraining: {batch_size: 8}\n", "'training' is given twice"),
        ("training:\n  epochs: 1\n  epochs: 2\n", r"'epochs' is given twice.*line 3"),
        ("name: " + 3000 * "[", "nested too deep|is not YAML"),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_yaml_s_own_ways_to_say_it_again_are_none(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: a\nencoders:\n  text: &e {source: minilm, layers: [-1]}\n  audio: {<<: *e, source: whisper-tiny-en}\n"
    )
    recipe = load_recipe(path)
    assert recipe.encoders["audio"].layers == (-1,)
    assert recipe.encoders["audio"].source == "whisper-tiny-en"


def test_aliases_of_aliases_are_looked_at_once(tmp_path):
    path = tmp_path / "r.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)), "name: a"]
    path.write_text("\n".join(lines))  # 2 ** 60 leaves
    with pytest.raises(UserError, match="unknown key a"):
        load_recipe(path)


@pytest.mark.parametrize(
    "model", [{"trunk": "ple", "specific_rank": 4}, {"routing": "uniform", "specific_rank": 0}, {"shared_ranks": []}]
)
def test_top_k_is_not_asked_for_where_nothing_is_chosen(model):
    content = {"name": "a", "encoders": {"text": {"source": "minilm"}}, "model": {"shared_ranks": [4]} | model}
    assert parse_recipe(content, "r.yaml").model.top_k == 4
