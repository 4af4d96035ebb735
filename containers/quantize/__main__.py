"""`python -m containers.quantize --request R --result R`."""

from containers.contract import Step
from containers.quantize.work import work
from containers.step import run

if __name__ == "__main__":
    run(Step.QUANTIZE, work)
