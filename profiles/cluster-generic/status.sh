#!/bin/sh
# status.sh SCHEDULER JOB: print running, success or failed.
# A job that the scheduler killed writes no mark of its end; without this script Snakemake would wait for it for ever.
# A scheduler that does not answer is no reason to give a job up: it counts as running.
set -u
scheduler=$1 job=$2

slurm() {
    state=$(squeue --noheader --states=all --format=%T --jobs="$job" 2>&1) || case $state in
        *"Invalid job id"*) state= ;;
        *) echo running && return ;;
    esac
    # squeue (like scontrol) forgets a job minutes after its end, accounting does not. Without any, such a job may have
    # ended well or not: it counts as failed, since doing it once more costs little, and believing it could cost all.
    [ -n "$state" ] || state=$(sacct -X --noheader --parsable2 --format=State --jobs="$job" 2>&1) || case $state in
        *"accounting storage is disabled"* | *"not found"*) state= ;;
        *) echo running && return ;;
    esac
    case $(printf '%s\n' "$state" | sed -n '/^sacct: /!{p;q;}') in
        COMPLETED) echo success ;;
        PENDING* | RUNNING* | COMPLETING* | CONFIGURING* | REQUEUE* | RESIZING* | SIGNALING* | STAGE_OUT* | STOPPED* | \
            SUSPENDED* | PREEMPTED*) echo running ;;
        *) echo failed ;;
    esac
}

pbs() {
    facts=$(qstat -x -f "$job" 2>&1) || case $facts in
        *"Unknown Job"*) echo failed && return ;;
        *) echo running && return ;;
    esac
    case $(printf '%s\n' "$facts" | sed -n 's/^ *job_state = //p') in
        F | C) [ "$(printf '%s\n' "$facts" | sed -n 's/^ *[Ee]xit_status = //p')" = 0 ] && echo success || echo failed ;;
        *) echo running ;;
    esac
}

sge() {
    if facts=$(qstat -j "$job" 2>&1); then
        # A job in error waits in the queue until somebody clears it.
        qstat 2>/dev/null | awk -v job="$job" '$1 == job && $5 ~ /E/ { found = 1 } END { print found ? "failed" : "running" }'
        return
    fi
    case $facts in
        *"do not exist"*) ;;
        *) echo running && return ;;
    esac
    # Between its end and its line in the accounts a job is known to neither.
    facts=$(qacct -j "$job" 2>/dev/null) || { echo running && return; }
    printf '%s\n' "$facts" | awk '$1 == "failed" { bad = $2 } $1 == "exit_status" { status = $2 }
        END { print bad == 0 && status == 0 ? "success" : "failed" }'
}

lsf() {
    state=$(bjobs -noheader -o stat "$job" 2>&1) || case $state in
        *"is not found"*) ;;
        *) echo running && return ;;
    esac
    case $state in
        DONE*) echo success ;;
        EXIT* | *"is not found"*) echo failed ;;
        *) echo running ;;
    esac
}

case $scheduler in
    slurm | pbs | sge | lsf) "$scheduler" ;;
    *) echo "status.sh knows slurm, pbs, sge and lsf; found: $scheduler" >&2 && exit 2 ;;
esac
