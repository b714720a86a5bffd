"""Jobs: each module is `main(config)` and small functions; `python -m cleave` starts them."""
