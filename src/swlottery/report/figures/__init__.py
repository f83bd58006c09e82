"""The PNG figures of a search (`find`) and of a training (`train`), in the project's one style (`style`).

They are drawn from a record or from a run's files. Imports: `report.run_files`, `report.words`, rooms below.
"""
