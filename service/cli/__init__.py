"""The commands of the command line other than `serve`: they compute in process, or ask a service.

`app` has the commands and their options; `commands/` has what each of them does.
"""
