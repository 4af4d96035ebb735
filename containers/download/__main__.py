"""`python -m containers.download --request R --result R`."""

from containers.contract import Step
from containers.download.work import work
from containers.step import run

if __name__ == "__main__":
    run(Step.DOWNLOAD, work)
