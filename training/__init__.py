"""How the embedded model was made, in the order of the data.

- `world`: what there is to paint: a scene, its caption and its picture.
- `vocabulary`: captions to token ids, as two word-level tokenizers.
- `folder`: the configuration of every part, and the `FluxPipeline` folder they are saved as.
- `vae`: pictures to latents and back.
- `flow`: the text encoders and the transformer, trained together on latents.
- `train`: the command that runs all of it.
- `sheet`: the contact sheet of the README.
"""
