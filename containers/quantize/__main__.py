"""`python -m containers.quantize --request R --result R`."""

from containers.contract import Step
from containers.step import loading, run

if __name__ == "__main__":
    with loading(Step.QUANTIZE):
        from containers.quantize.work import work

    run(Step.QUANTIZE, work)
