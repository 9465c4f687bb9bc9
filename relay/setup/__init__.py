"""Setup: what `relay init` and `relay trigger` do: look at a shop's database, propose, write SQL.

`survey.py` reads the catalog, `vocabulary.py` and `proposal.py` decide, `settings_text.py` writes
relay.toml, `order_trigger.py` and `mirror_trigger.py` write triggers, `installing.py` applies it
all.
"""
