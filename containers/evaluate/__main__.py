"""python -m containers.evaluate --request request.json --result result.json"""

from containers.contract import Step
from containers.evaluate.work import work
from containers.step import run

if __name__ == "__main__":
    run(Step.EVALUATE, work)
