"""Language models behind one protocol (protocol.py); one module per backend; `build` turns a ModelConfig into a model."""
