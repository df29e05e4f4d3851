def score(p): return 0
def install(n): pass
