"""python -m containers.evaluate --request request.json --result result.json"""

from containers.contract import Step
from containers.step import loading, run

if __name__ == "__main__":
    with loading(Step.EVALUATE):
        from containers.evaluate.work import work

    run(Step.EVALUATE, work)
