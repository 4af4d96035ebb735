"""`python -m containers.download --request R --result R`."""

from containers.contract import Step
from containers.step import loading, run

if __name__ == "__main__":
    with loading(Step.DOWNLOAD):
        from containers.download.work import work

    run(Step.DOWNLOAD, work)
