"""The components of a model: their configurations, checked, and the tensors that these imply.

    autoencoder.py    VAEs
    video_autoencoder.py   the VAE of videos that Qwen-Image has
    clip.py           CLIP's text encoder
    t5.py             T5's encoder
    qwen3.py          Qwen3, a language model, as a text encoder
    qwen25_vl.py      the language part of Qwen2.5-VL, likewise
    mistral3.py       the language model in a Mistral3, as a text encoder
    language_model.py   what these three share
    scheduler.py      noise levels
    tokenizer.py      what a tokenizer has to be
    config.py         what the configurations of all components share
    tensors.py        names and shapes of linears, convolutions and norms

Transformers are in `families/`. A room imports only rooms below it.
"""
