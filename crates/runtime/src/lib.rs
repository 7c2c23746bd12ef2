//! What every process needs: tasks with an owner and an end, logs, health, metrics, ready lines.
