"""Prefect 3 (extra `prefect`): a run is part of its task, whose log, artifacts and names it shares.

Nothing here imports Prefect before the user's code has done so. Facts on Prefect are those of 3.8.
"""
