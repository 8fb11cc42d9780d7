"""The state in a PostgreSQL database.

psycopg is imported only here, and only where `state.url` is set: it is an extra. Every statement is complete in itself
or in its transaction, so a pooler such as PgBouncer may stand in between: no session state, no prepared statements, no
locks of sessions.
"""
