"""What encoders that others pre-trained cost under our heads and windows.

- encoders.py: their architectures, with random weights.
- probes.py: what a process of its own measures: a pass beside transformers' class, and training steps.
- counting.py: FLOPs and memory of training steps, counted without data; which GPU holds which, and hours of the package's recipes.
- page.py, page.md: the page docs/results/cost-pretrained.md.
"""
