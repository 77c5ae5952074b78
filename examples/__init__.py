"""What can be done with a run, as programs to copy from. No part of the installed package.

classifier.py   train a classifier on a run, and test it on prompts kept from training
"""
