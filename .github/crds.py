"""Prints the CRDs of all operators, for an API server that the tests ask and no operator serves:
`python .github/crds.py | kubectl apply --server-side --filename -`
"""

import sys

from services.cluster.operators import crds, installed
from services.cluster.options import Profile

sys.stdout.writelines(f"---\n{crds(operator)}\n" for operator in installed(Profile.PRODUCTION))
