"""Choose a layout: what it holds, how long it takes, and why."""

from utils.plan.cluster import *  # noqa
from utils.plan.coefficients import Coefficients, fitted
from utils.plan.estimate import Estimate, estimate
from utils.plan.layout import Layout
from utils.plan.model import *  # noqa
from utils.plan.refuse import PlanError
