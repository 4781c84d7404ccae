"""What a stage knows of Prefect."""
