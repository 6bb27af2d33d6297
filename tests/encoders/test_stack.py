from transformers import WhisperConfig

from mmolre.encoders.stack import skeleton


def test_a_whisper_whose_decoder_is_left_at_its_default():
    """Read from a CTranslate2 file, a configuration knows the encoder alone; 4 or 6 heads do not divide 10 columns."""
    config = WhisperConfig(d_model=10, encoder_attention_heads=5, encoder_layers=2, encoder_ffn_dim=4)
    made = skeleton(config)
    assert [len(made.layers), made.conv2.out_channels] == [2, 10]
    assert all(parameter.is_meta for parameter in made.parameters())
