def dictionary_bytes_for(n): return 0
class Learner:
    value_bytes_max=4096
    def __init__(self, **k): pass
    def observe(self,a,b): return False
    def sample(self,v): return False
    def train(self,c): return None
