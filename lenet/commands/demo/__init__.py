"""A page in the browser where a network is seen at work. `python -m lenet demo RUN_ID`"""
