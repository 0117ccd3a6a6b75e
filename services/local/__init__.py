"""The whole platform as real local processes on one machine: Kafka, PostgreSQL, MLflow, and the
same services as in a cluster. Only addresses differ.
"""
