"""How often the verdict is wrong: models whose truth is known, judged again and again."""
