def main_table(content):
    return "\n".join(f"| {r['regularizer']} {r['seed']} {r.get('test_accuracy')}" for r in content["runs"])


def write_report(folder, content):
    pass
