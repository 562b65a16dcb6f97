#!/bin/sh
# Starts a program, such as a coding agent, that may read Pleo's data and change nothing. It gets no token: it finds a
# listener of its own in $PLEO_BASE_URL, which ends with it. Give the agent INSTRUCTIONS.md to read.
#
# usage: run.sh [--account NAME] -- COMMAND...
exec pleo-proxy exec --read-only "$@"
