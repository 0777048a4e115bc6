"""Who is next, in plain functions: no SQL, no clock. Claims, the API and the simulation ask the same ones.

classes    the classes of priority that the settings declare
nodes      room node by node, and where workers go
scene      what there is to decide about: lanes of waiting jobs, tenants, running jobs, room
shares     who has had how much: means that fade, dominant shares
reserve    the room that is kept for the first job that does not fit
policy     the next job, or the jobs that must make room for it
outlook    for every waiting job the reason, the place and the expected start
simulation a cluster without a cluster
"""
