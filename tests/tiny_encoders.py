"""Tiny, randomly initialised encoders written to folders, so that the general path of transformers is run for real."""

import json
from pathlib import Path

WORDS = ["i", "love", "hate", "this", "movie", "was", "not", "very", "good", "bad", "and", "the", "so", "a"]
LETTERS = "bcdefghjklmnopqrstuvwxyz!.,?"


def write_roberta(folder: Path, *, width: int = 16, layers: int = 2, window: int = 64, seed: int = 0) -> Path:
    """A RoBERTa of ``layers`` layers with a word-level tokenizer (lower-cased, split at spaces and punctuation)."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=window,
    ).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=window + 2,
        type_vocab_size=1,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        RobertaModel(config).save_pretrained(folder)
    return folder


def write_text_like(folder: Path, roberta: Path, kind: str, *, layers: int = 4, seed: int = 0) -> Path:
    """A BERT or MPNet of ``layers`` layers, 16 wide, with the tokenizer of a folder of :func:`write_roberta`."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModel

    shutil.copytree(roberta, folder)
    (folder / "model.safetensors").unlink()
    vocabulary = json.loads((roberta / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        pad_token_id=1,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder


def write_data2vec_audio(folder: Path, *, width: int = 16, layers: int = 2, seed: int = 0) -> Path:
    """A Data2Vec-audio of ``layers`` layers over raw 16 kHz waves, 50 frames a second, with its feature extractor."""
    import torch
    from transformers import Data2VecAudioConfig, Data2VecAudioModel, Wav2Vec2FeatureExtractor

    config = Data2VecAudioConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=3,
        num_conv_pos_embedding_groups=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Data2VecAudioModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def write_whisper(folder: Path, *, width: int = 16, layers: int = 2, seed: int = 0) -> Path:
    """A Whisper in transformers' own layout, with its feature extractor."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        vocab_size=32,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def drop_safetensors(folder: Path) -> Path:
    """Leave a pickled weights file alone in the folder, as old hub repositories have it."""
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_name("pytorch_model.bin"))
    return folder


def rewrite_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file in place."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
