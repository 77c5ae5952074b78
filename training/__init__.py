"""How the embedded model was made, in the order of the data. No part of the installed package.

scenes.py       what pictures show: a scene, its caption and its drawing
vocabulary.py   captions to token ids, by two word-level tokenizers
folder.py       the model's parts untrained, and the `FluxPipeline` folder of the trained ones
parallel.py     training in several processes at once
vae.py          stage one: the autoencoder, from pictures to latents and back
corpus.py       latents and token ids that the flow learns from
flow.py         stage two: the text encoders and the transformer, trained together on latents
train.py        the command that runs both stages
sheet.py        the contact sheet in the README
"""
