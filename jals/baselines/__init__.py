"""What a ranking has to beat: popularity, item neighbours, and a linear model in closed form (EASE).

Each call takes `jals.Ratings` and gives a small frozen object whose `scores(users)` are `[len(users), num_items]`,
higher for what should be recommended. Items that a user has seen are scored as all others: leave them out when ranking.
All of it runs on the host in NumPy: nothing here is jitted or differentiated.
"""

from .linear import ItemWeights, ease
from .neighbours import Neighbours, item_knn
from .popularity import Popularity, most_popular

__all__ = ["ItemWeights", "Neighbours", "Popularity", "ease", "item_knn", "most_popular"]
