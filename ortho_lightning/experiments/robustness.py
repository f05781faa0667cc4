def robustness(trainer, model, data):
    return {}
