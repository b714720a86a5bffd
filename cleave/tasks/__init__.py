"""Tasks: named streams of problems with the rule that scores their answers. `registry.get_task` finds one by name."""
