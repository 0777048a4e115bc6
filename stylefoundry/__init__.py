"""stylefoundry: train neural style transfer models as jobs, fetch them, use them.

from stylefoundry import Client

client = Client()
job = client.submit("metastyle", "adapt", datasets={"content": "photos", "style": "paintings"},
                    style_image="starry_night.jpg", base_model="meta", publish_as="starry")
client.wait(job.id)
client.fetch_model("starry")
"""

from stylefoundry.client import Client
from stylefoundry.errors import ApiError, Error, JobFailed, NotConfigured, Rejected, Unreachable
from stylefoundry.types import Dataset, Event, Job, Model

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "Client",
    "Dataset",
    "Error",
    "Event",
    "Job",
    "JobFailed",
    "Model",
    "NotConfigured",
    "Rejected",
    "Unreachable",
]
