def summarize(runs, baseline="none", confidence=0.95, target=None):
    return {"sentence": "none yet"}
