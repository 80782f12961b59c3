"""Which bin, and how. All that is said stands in `data/rules.json` and `data/things.json`; a municipality's
overlay may change it.

    rulebook   the shape of the rules, loaded once and carried
    advice     the advice for a finding of the model, for a whole photo, for a thing by its name
    things     things found by the names that people use, also misspelt
    overlay    what a municipality changes, and what it may not
"""
