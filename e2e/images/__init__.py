"""Container images without a registry: packed from files on this machine, brought to the node as docker-archive tars.

    archive     the format: deterministic, so that an image's tag is the digest of its content
    catalogue   what is in each image
    dockerfile  the final stage of the project's Dockerfile, so that the image tested is the image shipped
    load        into the one-node cluster, into kind, or left to be pushed
"""
